"""`mailroot certificate`: what it makes, what it shows, and what it says."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mailroot.net.certificates import Certificates
from mailroot.net.tls import CertificateFile
from rig.authority import issue
from rig.served import Running, Said

pytestmark = pytest.mark.quick

Say = Callable[..., Said]


def test_make_says_what_goes_into_the_configuration(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = say("certificate", "make", "--name", "relay.example.com", "--days", "100")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'relay.pem'}: for relay.example.com; ends 20")
    assert lines[0].endswith(", in 99 days")
    assert lines[1:3] == [
        f"{tmp_path / 'relay.key'}: its private key, for the service alone",
        f"{tmp_path / 'ca.pem'}: give this one to clients; whoever trusts it trusts the certificate",
    ]
    assert said.out.endswith('\n\n[[general.certificates]]\nfile = "relay.pem"\nkey = "relay.key"\n')
    again = say("certificate", "make")
    assert again.code == 0
    assert ": for relay.example.com; ends 20" in again.out
    assert "ca.pem: the same as before, clients need nothing new\n" in again.out


def test_what_it_prints_can_be_put_into_the_file(say: Say, tmp_path: Path) -> None:
    """Also where the file names the certificate already, which is not there yet."""
    config = tmp_path / "mailroot.toml"
    config.write_text('[general]\nfqdn = "relay.example.com"\n', "utf-8")
    said = say("certificate", "make", "--config", str(config), "--folder", str(tmp_path / "tls"))
    assert said.code == 0, said.err
    assert ": for relay.example.com, " in said.out
    section = said.out.partition("[[general.certificates]]")[2]
    assert 'file = "tls/relay.pem"' in section
    config.write_text(config.read_text("utf-8") + "[[general.certificates]]" + section, "utf-8")
    checked = say("config", "check", str(config))
    assert checked.code == 0, checked.err
    for file in (tmp_path / "tls").iterdir():
        file.unlink()
    assert say("config", "check", str(config)).code == 1
    said = say("certificate", "make", "--config", str(config), "--folder", str(tmp_path / "tls"))
    assert said.code == 0, said.err
    assert "127.0.0.1" in said.out
    assert say("config", "check", str(config)).code == 0


def test_the_folder_of_the_configuration_is_the_usual_one(say: Say, tmp_path: Path) -> None:
    config = tmp_path / "mailroot.toml"
    config.write_text("", "utf-8")
    assert say("certificate", "make", "--config", str(config), "--name", "x.example").code == 0
    assert (tmp_path / "relay.pem").exists()


def test_make_for_programs(say: Say, tmp_path: Path) -> None:
    said = say("certificate", "make", "--folder", str(tmp_path), "--name", "relay.example.com", "--json")
    answer = json.loads(said.out)
    assert answer["new_authority"] is True
    assert answer["key"] == str(tmp_path / "relay.key")
    assert answer["certificate"]["names"] == ["relay.example.com"]
    assert answer["authority"]["file"] == str(tmp_path / "ca.pem")
    assert "PRIVATE" not in said.out


def test_make_replaces_nothing_unasked(say: Say, tmp_path: Path) -> None:
    issue("relay.example.com").files(tmp_path, "relay")
    before = (tmp_path / "relay.pem").read_bytes()
    said = say("certificate", "make", "--folder", str(tmp_path))
    assert said.code == 1
    assert said.err.endswith("was not made here. Name another --folder, or say --force to replace it\n")
    assert (tmp_path / "relay.pem").read_bytes() == before
    assert say("certificate", "make", "--folder", str(tmp_path), "--force", "--name", "x.example").code == 0
    assert say("certificate", "make", "--folder", str(tmp_path), "--days", "0").code == 2
    said = say("certificate", "make", "--folder", str(tmp_path), "--name", "a b")
    assert (said.code, said.out) == (1, "")
    assert "'a b' is not a domain name" in said.err


def test_show_what_is_in_use(mailroot: Say, running: Running, tmp_path: Path) -> None:
    said = mailroot("certificate", "show")
    assert said.code == 0
    assert said.out.startswith("no certificates are in use: TLS is not offered")
    assert mailroot("certificate", "show", "--json").json == {"certificates": []}
    first, second = issue("a.example.com", "192.0.2.1", days=90.5), issue("b.example.com", days=-3.5, began=10)
    running.relay.certificates = Certificates(
        [CertificateFile(*first.files(tmp_path, "a")), CertificateFile(*second.files(tmp_path, "b"))]
    )
    said = mailroot("certificate", "show")
    one, two = said.out.split("\n\n")
    assert one.splitlines()[:4] == [
        "server:       default",
        f"file:         {tmp_path / 'a.pem'}",
        "names:        a.example.com, 192.0.2.1",
        "serves:       clients that ask for no name, or for an unknown one, too",
    ]
    assert ", in 90 days\n" in one
    assert "issuer:       itself\n" in one
    assert "key:          ECDSA secp256r1\n" in one
    assert "serves:" not in two
    assert ": it has ended 3 days ago\n" in two
    (shown, other) = mailroot("certificate", "show", "--json").json["certificates"]
    assert (shown["server"], shown["default"], other["default"]) == ("default", True, False)
    assert shown["fingerprint"] in one
    assert mailroot("certificate", "show", "--server", "default").out == said.out
    said = mailroot("certificate", "show", "--server", "nobody")
    assert (said.code, said.out) == (1, "")


def test_show_a_file(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = issue(authority=True, subject="Root")
    leaf = issue("relay.example.com", by=root, days=0.5)
    certificate, _ = leaf.files(tmp_path, "relay")
    said = say("certificate", "show", str(certificate))
    assert said.code == 0, said.err
    assert said.out.startswith(f"file:         {certificate}\nnames:        relay.example.com\n")
    assert ": in less than a day\n" in said.out
    assert "issuer:       CN=Root\n" in said.out
    pfx = tmp_path / "relay.pfx"
    pfx.write_bytes(leaf.pkcs12("secret", root))
    said = say("certificate", "show", str(pfx))
    assert said.code == 1
    assert "it wants a `password`" in said.err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"secret\r\n")))
    said = say("certificate", "show", str(pfx), "--password-stdin", "--json")
    assert said.json["certificates"][0]["chain"] == 1
    assert "secret" not in said.out
    said = say("certificate", "show", str(tmp_path / "missing.pem"))
    assert (said.code, said.out) == (1, "")
    assert "missing.pem: cannot be read: no such file" in said.err


def test_a_file_is_shown_although_the_configuration_is_broken(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "mailroot.toml"
    config.write_text("nonsense", "utf-8")
    monkeypatch.setenv("MAILROOT_CONFIG", str(config))
    certificate, _ = issue("relay.example.com").files(tmp_path, "relay")
    assert say("certificate", "show", str(certificate)).code == 0
    assert say("certificate", "show").code == 1
