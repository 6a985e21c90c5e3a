"""A secret is in the settings and nowhere else: not in what the commands say, not in errors, warnings or reprs."""

import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailroot.cli.main import main
from mailroot.config.load import ConfigurationError, load
from mailroot.config.sample import effective

pytestmark = pytest.mark.quick

SECRET = "Tr0ub4dor-and-3"
SECTION = "delivery.outbound_security"
FINE = f'[{SECTION}]\nusername = "ann"\ntls = "required"\n'
REMOTE = '\n[[domains.remote]]\nname = "example.net"\noutbound_security = { username = "bob", tls = "implicit", '


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("MAILROOT_CONFIG", raising=False)
    monkeypatch.setenv("SMART_HOST_PASSWORD", SECRET)
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "secret").chmod(0o644)
    (tmp_path / "two-lines").write_text(f"{SECRET}\n{SECRET}\n")
    yield tmp_path


def forms(value: str) -> dict[str, str]:
    """The same secret, wherever a secret can stand."""
    return {
        "everybody's": f"{FINE}password = {value}",
        "one server's": f"{FINE.replace('[', '[virtual_server.one.')}password = {value}",
        "a remote domain's": f"{REMOTE}password = {value} }}",
    }


VALUES = {"inline": f'"{SECRET}"', "file": '{ file = "secret" }', "environment": '{ env = "SMART_HOST_PASSWORD" }'}
GOOD = {f"{place}, {form}": text for form, value in VALUES.items() for place, text in forms(value).items()}

BAD = {
    "an unknown key": f'{FINE}pasword = "{SECRET}"',
    "the wrong section": f'[general]\npassword = "{SECRET}"',
    "no section": f'password = "{SECRET}"',
    "no section there is": f'[smart_host]\npassword = "{SECRET}"',
    "a list": f'{FINE}password = ["{SECRET}"]',
    "a table": f'{FINE}password = {{ text = "{SECRET}" }}',
    "a table with more": f'{FINE}password = {{ file = "secret", text = "{SECRET}" }}',
    "no user": f'[{SECTION}]\npassword = "{SECRET}"',
    "no TLS": f'[{SECTION}]\nusername = "ann"\ntls = "none"\npassword = "{SECRET}"',
    "NUL in it": f'{FINE}password = "{SECRET}\\u0000"',
    "another mistake": f'{FINE}password = "{SECRET}"\ntsl = "required"',
    "no quotes": f"{FINE}password = {SECRET}",
    "half a quote": f'{FINE}password = "{SECRET}',
    "a bad escape": f'{FINE}password = "{SECRET}\\q"',
    "twice": f'{FINE}password = "{SECRET}"\npassword = "{SECRET}"',
    "text behind it": f'{FINE}password = "" {SECRET}',
    "an open table": f'{FINE}password = {{ file = "{SECRET}"',
    "a file of two lines": f'{FINE}password = {{ file = "two-lines" }}',
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_is_told_of_without_its_secret(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "mailroot.toml"
    file.write_text(GOOD[name], encoding="utf-8")
    configuration = load(file, {"SMART_HOST_PASSWORD": SECRET})
    settings = configuration.virtual_servers[0]
    securities = [
        settings.delivery.outbound_security,
        *(remote.outbound_security for remote in settings.domains.remote),
    ]
    assert SECRET in [security.password for security in securities if security is not None]
    assert SECRET not in f"{configuration!r} {configuration} {settings!r} {effective(configuration)}"
    for arguments in (["check", str(file)], ["check", "--config", str(file)], ["show", str(file)]):
        assert main(["config", *arguments]) == 0
        said = capsys.readouterr()
        assert said.out
        assert SECRET not in said.out + said.err


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_without_its_secret(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "mailroot.toml"
    file.write_text(BAD[name], encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load(file, {})
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(caught.value.problems)
    for command in ("check", "show"):
        assert main(["config", command, str(file)]) == 1
        said = capsys.readouterr()
        assert "mailroot.toml" in said.err
        assert SECRET not in said.out + said.err
