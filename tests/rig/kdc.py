"""A Kerberos realm of its own: MIT's KDC on a loopback port, its database and its keytabs in a folder."""

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path

from rig.programs import find_program

REALM = "EXAMPLE.COM"
HOST = "localhost"
"""What clients call the computer with the service; there is no DNS for another name."""

_KRB5_CONF = """\
[libdefaults]
 default_realm = {realm}
 dns_lookup_kdc = false
 dns_lookup_realm = false
 dns_canonicalize_hostname = false
 rdns = false
 udp_preference_limit = 1
[realms]
 {realm} = {{
  kdc = 127.0.0.1:{port}
 }}
[domain_realm]
 localhost = {realm}
 .example.com = {realm}
[dbmodules]
 db_module_dir = {modules}
[logging]
 kdc = FILE:{folder}/kdc.log
"""

_KDC_CONF = """\
[kdcdefaults]
 kdc_listen = ""
 kdc_tcp_listen = 127.0.0.1:{port}
[realms]
 {realm} = {{
  database_name = {folder}/principal
  key_stash_file = {folder}/stash
  acl_file = {folder}/kadm5.acl
  max_life = 10h
 }}
"""


class Kdc:
    """The realm. `environment` is what its clients and administrators run with."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._admin = _program("kadmin.local")
        database = _program("kdb5_util")
        modules = next((database.parents[1] / "lib").glob("*/krb5/plugins/kdb"))
        values = {"realm": REALM, "port": port, "folder": folder, "modules": modules}
        self.config = folder / "krb5.conf"
        self.config.write_text(_KRB5_CONF.format(**values))
        (folder / "kdc.conf").write_text(_KDC_CONF.format(**values))
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("KRB5")} | {
            "KRB5_CONFIG": str(self.config),
            "KRB5_KDC_PROFILE": str(folder / "kdc.conf"),
            "KRB5CCNAME": f"FILE:{folder}/nobody.ccache",
        }
        self._run([database, "create", "-s", "-r", REALM, "-P", "of the database"])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it answers."""
        command = [_program("krb5kdc"), "-n", "-r", REALM]
        with (self.folder / "kdc.out").open("wb") as output:
            self._process = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)
        end = time.monotonic() + 30
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2):
                return
            time.sleep(0.05)  # another process: there is nothing else to wait on
        raise AssertionError(f"the KDC does not answer: {(self.folder / 'kdc.out').read_text()}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)

    def add(self, principal: str, password: str | None = None) -> None:
        """A principal; without a password, with a key of chance."""
        key = ["-randkey"] if password is None else ["-pw", password]
        self._run([self._admin, "-r", REALM, "addprinc", *key, principal])

    def keytab(self, path: Path, *principals: str) -> Path:
        """The keys of these principals, changed and put into a keytab."""
        self._run([self._admin, "-r", REALM, "ktadd", "-k", path, *principals])
        return path

    def log_in(self, principal: str, password: str) -> dict[str, str]:
        """The environment of programs that have a ticket of this principal."""
        environment = self.environment | {"KRB5CCNAME": f"FILE:{self.folder}/{principal}.ccache"}
        self._run(["kinit", principal], environment, password + "\n")
        return environment

    def _run(self, command: list[Path | str], environment: dict[str, str] | None = None, typed: str = "") -> None:
        done = subprocess.run(
            command, env=environment or self.environment, input=typed, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def _program(name: str) -> Path:
    found = find_program(name)
    assert found is not None, name
    return found
