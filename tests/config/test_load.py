"""Good configuration files: what they come to, where defaults and relative paths come from, what is warned of."""

import os
import socket
import sys
from pathlib import Path

import pytest

from mailroot.config.load import ConfigurationError, load, load_service
from mailroot.config.model import Configuration, VirtualServerSettings
from mailroot.deliver.security import TlsPolicy
from mailroot.policy.access import Mode
from mailroot.units import DAY, HOUR, KIB, MIB

pytestmark = pytest.mark.quick


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mailroot.toml"


def read(file: Path, text: str, **environment: str) -> Configuration:
    file.write_text(text, encoding="utf-8")
    return load(file, environment)


def only(configuration: Configuration) -> VirtualServerSettings:
    (server,) = configuration.virtual_servers
    return server


def refused(file: Path, text: str, **environment: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(file, text, **environment)
    return str(caught.value)


def test_an_empty_file_means_the_defaults_in_one_virtual_server(file: Path) -> None:
    configuration = read(file, "")
    server = only(configuration)
    assert configuration.file == file
    assert configuration.warnings == ()
    assert server.name == "default"
    assert server.messages == VirtualServerSettings("default").messages
    assert server.delivery == VirtualServerSettings("default").delivery
    assert server.general.listen == ("127.0.0.1:25", "[::1]:25")


def test_values_have_the_types_and_units_of_their_settings(file: Path) -> None:
    server = only(
        read(
            file,
            """
            general.fqdn = "relay.example.com"
            [messages]
            max_message_size = "1.5 MB"
            max_session_size = 0
            [delivery.retries]
            first_retry = "1 h 30 min"
            delay_notification = 0
            [delivery]
            advanced = { smart_host = ["smtp.example.com:587"], direct_first = true }
            outbound_security = { tls = "required" }
            [history]
            keep = "2 weeks"
            """,
        )
    )
    assert server.general.fqdn == "relay.example.com"
    assert server.messages.max_message_size == 1536 * KIB
    assert server.messages.max_session_size == 0
    assert server.delivery.retries.first_retry == 1.5 * HOUR
    assert server.delivery.retries.delay_notification == 0.0
    assert server.delivery.advanced.smart_host == ("smtp.example.com:587",)
    assert server.delivery.advanced.direct_first is True
    assert server.delivery.outbound_security.tls is TlsPolicy.REQUIRED
    assert server.history.keep == 14 * DAY


def test_a_section_that_says_half_keeps_the_other_half_of_its_default(file: Path) -> None:
    access = only(
        read(file, '[access.relay]\nlist = ["10.0.0.0/8"]\n[access.connection]\nmode = "only the list"')
    ).access
    assert (access.relay.mode, access.relay.list) == (Mode.ONLY, ("10.0.0.0/8",))
    assert (access.connection.mode, access.connection.list) == (Mode.ONLY, ())


def test_relative_paths_start_at_the_folder_of_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.parent.joinpath("elsewhere").mkdir()
    monkeypatch.chdir(file.parent / "elsewhere")
    text = '[general]\nmailroot = "mail/../post"\n[service.log]\nfile = "a.log"'
    file.write_text(text)
    configuration = load(Path("../mailroot.toml"), {})
    folder = file.parent
    assert os.path.samefile(configuration.service.api.token_file.parent.parent, folder)
    assert configuration.service.log.file is not None
    assert os.path.samefile(configuration.service.log.file.parent, folder)
    assert only(configuration).general.mailroot.name == "post"
    assert os.path.samefile(only(configuration).general.mailroot.parent, folder)
    assert configuration.file is not None
    assert os.path.samefile(configuration.file, file)


def test_a_virtual_server_overrides_single_keys_of_the_shared_sections(file: Path) -> None:
    first, second = read(
        file,
        """
        [general]
        fqdn = "relay.example.com"
        max_connections = 7
        [access.relay]
        list = ["10.0.0.0/8", "::1"]
        [[domains.remote]]
        name = "example.net"
        [virtual_server.first.general]
        listen = ["127.0.0.1:2525"]
        mailroot = "first"
        [virtual_server."the second".general]
        fqdn = "second.example.com"
        listen = ["127.0.0.1:2526"]
        mailroot = "second"
        [virtual_server."the second".access.relay]
        list = ["192.0.2.1"]
        [[virtual_server."the second".domains.remote]]
        name = "example.org"
        """,
    ).virtual_servers
    assert (first.name, second.name) == ("first", "the second")
    assert (first.general.fqdn, second.general.fqdn) == ("relay.example.com", "second.example.com")
    assert first.general.max_connections == second.general.max_connections == 7
    assert first.access.relay.list == ("10.0.0.0/8", "::1")
    assert second.access.relay.list == ("192.0.2.1",)
    assert [remote.name for remote in first.domains.remote] == ["example.net"]
    assert [remote.name for remote in second.domains.remote] == ["example.org"]


def test_a_fault_in_a_shared_section_is_said_once_at_its_line(file: Path) -> None:
    text = refused(
        file,
        '[general]\nfqdn = "a b"\n[virtual_server.a.general]\nlisten = ["127.0.0.1:1"]\nmailroot = "a"\n'
        '[virtual_server.b.general]\nlisten = ["127.0.0.1:2"]\nmailroot = "b"',
    )
    assert text == f"{file}:2: [general] fqdn: 'a b' is not a domain name; right would be 'example.com'"


def test_a_secret_comes_from_a_file_or_the_environment(file: Path) -> None:
    secret = file.parent / "secret"
    secret.write_bytes(b"\xef\xbb\xbfp\xc3\xa4ss word\r\n")
    secret.chmod(0o600)
    section = '[delivery.outbound_security]\ntls = "required"\nusername = "ann"\npassword = '
    configuration = read(file, section + '{ file = "secret" }')
    assert only(configuration).delivery.outbound_security.password == "päss word"
    assert configuration.warnings == ()
    configuration = read(file, section + '{ env = "SMART_HOST_PASSWORD" }', SMART_HOST_PASSWORD="from outside")
    assert only(configuration).delivery.outbound_security.password == "from outside"
    assert configuration.warnings == ()
    assert "from outside" not in repr(configuration)


def test_a_secret_in_the_file_itself_is_taken_with_a_warning(file: Path) -> None:
    configuration = read(
        file, '[delivery.outbound_security]\ntls = "required"\nusername = "ann"\npassword = "hunter2"'
    )
    assert only(configuration).delivery.outbound_security.password == "hunter2"
    (warning,) = configuration.warnings
    assert warning.startswith(f"{file}:4: [delivery.outbound_security] password: ")
    assert "hunter2" not in warning + repr(configuration)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has access lists instead of modes")
def test_a_secret_file_that_everybody_can_read_is_warned_of(file: Path) -> None:
    secret = file.parent / "secret"
    secret.write_text("hunter2\n")
    secret.chmod(0o644)
    text = '[delivery.outbound_security]\ntls = "required"\nusername = "ann"\npassword = { file = "secret" }'
    (warning,) = read(file, text).warnings
    assert f"{secret} can be read by everybody on this computer" in warning
    secret.chmod(0o640)
    assert read(file, text).warnings == ()


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff\xfe\x00", b"x" * 70_000])
def test_a_file_that_holds_no_secret_is_refused_without_its_content(file: Path, content: bytes) -> None:
    (file.parent / "secret").write_bytes(content)
    text = refused(file, '[delivery.outbound_security]\nusername = "a"\npassword = { file = "secret" }')
    assert f"{file}:3: [delivery.outbound_security.password] file: " in text
    assert "two" not in text
    assert "xxx" not in text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_file_is_read_however_an_editor_or_shell_saved_it(file: Path, encoding: str, line_end: str) -> None:
    text = '# München\n[general]\nfqdn = "relay.example.com"\nlisten = ["x"]\n'.replace("\n", line_end)
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    file.write_bytes((mark + text).encode(encoding))
    with pytest.raises(ConfigurationError) as caught:
        load(file, {})
    assert str(caught.value).startswith(f"{file}:4: [general] listen: 'x' is not an address and port")


def test_a_file_that_is_not_there_says_how_to_get_one(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such file; `mailroot config sample` prints one"):
        load(file, {})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(file.parent, {})


def test_a_file_nested_without_end_is_refused(file: Path) -> None:
    assert "nested too deeply" in refused(file, "a = " + "[" * 100_000)


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ('[general]\nlisten = ["*:25"]\n[access.relay]\nmode = "all except the list"\nlist = []', "open relay"),
        ('[general]\nlisten = ["192.0.2.1:25"]\n[access.relay]\nlist = ["0.0.0.0/0"]', "open relay"),
        ('[general]\nfqdn = "mailserver"', "is a bare name"),
        ("[general]\nlisten = []", "nobody can hand in mail by SMTP"),
        ("[delivery.advanced]\ndirect_first = true", "has no effect without a smart_host"),
    ],
)
def test_what_is_allowed_but_hardly_meant_is_warned_of(file: Path, text: str, warned: str) -> None:
    (warning,) = read(file, text).warnings
    assert warned in warning


def test_a_password_for_whoever_answers_is_warned_of(file: Path) -> None:
    (warning,) = read(
        file, '[delivery.outbound_security]\nusername = "a"\npassword = { env = "P" }', P="secret"
    ).warnings
    assert 'better would be tls = "required"' in warning


@pytest.mark.parametrize(
    "text",
    [
        '[access.relay]\nmode = "all except the list"\nlist = []',  # on loopback addresses only
        (
            '[general]\nlisten = ["*:25"]\n[access.relay]\nmode = "all except the list"\nlist = []\n'
            '[access.connection]\nmode = "only the list"\nlist = ["10.0.0.0/8"]'
        ),
        '[general]\nlisten = ["*:25"]',
        '[delivery.retries]\nexpiration = "6 h"',  # the default delay notice is then never sent
        "[delivery.outbound_connections]\nmax_connections = 10",
    ],
)
def test_what_is_in_order_is_not_warned_of(file: Path, text: str) -> None:
    assert read(file, text).warnings == ()


def test_without_a_file_the_embedded_defaults_are_below_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    configuration = load(None, {})
    server = only(configuration)
    assert configuration.file is None
    assert os.path.samefile(server.general.mailroot.parent, tmp_path)
    assert configuration.service.api.token_file.parent == server.general.mailroot
    assert {text.rpartition(":")[0] for text in server.general.listen} == {"127.0.0.1", "[::1]"}
    assert server.messages.max_message_size == 2 * MIB


def test_without_a_file_and_port_25_another_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.bind

    def bind(self: socket.socket, address: tuple[str, int]) -> None:
        if address[1] == 25:
            raise PermissionError(13, "Permission denied")
        real(self, address)

    class Socket(socket.socket):
        pass

    monkeypatch.setattr(Socket, "bind", bind)
    monkeypatch.setattr("mailroot.net.listener.socket.socket", Socket)
    assert only(load(None, {})).general.listen == ("127.0.0.1:2525", "[::1]:2525")


@pytest.mark.parametrize(
    "written", [r"'C:\Mail\mailroot'", r'"C:\\Mail\\mailroot"', '"C:/Mail/mailroot"', r"'c:\Mail\x\..\mailroot'"]
)
def test_a_path_of_windows_is_one_folder_however_it_is_written(file: Path, written: str) -> None:
    text = f"[general]\nmailroot = {written}"
    if os.name == "nt":
        assert only(read(file, text)).general.mailroot == Path("C:/Mail/mailroot")
    else:
        text = refused(file, text)
        assert text.startswith(f"{file}:2: [general] mailroot: ")
        assert text.endswith("is a path of Windows, and this is not Windows")


@pytest.mark.skipif(os.name != "nt", reason="only Windows has shares and letters of either case")
def test_two_servers_cannot_have_one_folder_by_two_spellings(file: Path) -> None:
    text = refused(
        file,
        "[virtual_server.a.general]\nlisten = ['127.0.0.1:1']\nmailroot = 'C:\\Mail'\n"
        "[virtual_server.b.general]\nlisten = ['127.0.0.1:2']\nmailroot = 'c:/mail'",
    )
    assert "belongs to virtual server 'a' already" in text
    share = only(read(file, r"general.mailroot = '\\files\mail\mailroot'")).general.mailroot
    assert str(share) == r"\\files\mail\mailroot"


def test_the_service_is_found_whatever_else_is_wrong(file: Path) -> None:
    """A certificate that is being renewed must not keep the commands from the service that runs."""
    file.write_text(
        '[service]\napi.port = 2581\napi.token_file = "token"\n'
        '[general]\nlisten = 25\n[[general.certificates]]\nfile = "not-there.pem"\n[nonsense]\n',
        "utf-8",
    )
    with pytest.raises(ConfigurationError):
        load(file, {})
    api = load_service(file, {}).api
    assert (api.port, api.token_file) == (2581, file.parent / "token")
    file.write_text("[service]\napi.port = 0\napi.wrong = 1\n", "utf-8")
    with pytest.raises(ConfigurationError, match=r"mailroot\.toml:3: \[service\.api\] wrong: "):
        load_service(file, {})
    file.write_text("nonsense", "utf-8")
    with pytest.raises(ConfigurationError, match=r"mailroot\.toml:1: "):
        load_service(file, {})
    with pytest.raises(ConfigurationError, match="there is no such file"):
        load_service(file.with_name("other.toml"), {})
