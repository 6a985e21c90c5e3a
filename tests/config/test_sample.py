"""The sample configuration: the defaults as it stands, and right also when its examples are uncommented."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailroot.config.load import load
from mailroot.config.model import ServiceSettings, VirtualServerSettings
from mailroot.config.sample import effective, sample
from mailroot.config.shape import Setting, settings_of
from mailroot.policy.limits import Quota
from rig.door import certificate_pem

WINDOWS = re.compile(r"^#\[access\.authentication\.windows\]\n(?:#.+\n)+", re.MULTILINE)
EXAMPLE = re.compile(r"^#(?=[\[a-z])", re.MULTILINE)


def all_settings(kind: type[Any]) -> Iterator[tuple[type[Any], Setting]]:
    for setting in settings_of(kind):
        if setting.is_section:
            yield from all_settings(setting.kind)
        elif (kind, setting.name) != (VirtualServerSettings, "name"):
            yield kind, setting


SETTINGS = [*all_settings(ServiceSettings), *all_settings(VirtualServerSettings)]
NAMES = [f"{kind.__name__}.{setting.name}" for kind, setting in SETTINGS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the examples name."""
    pem = certificate_pem()
    key, _, certificate = pem.partition(b"-----BEGIN CERTIFICATE-----")
    certificate = b"-----BEGIN CERTIFICATE-----" + certificate
    for name, octets in (
        ("relay.pem", certificate),
        ("relay.key", key),
        ("relay.password", b"secret\n"),
        ("authorities.pem", certificate),
        ("clients-ca.pem", certificate),
        ("printer7.pem", certificate),
        ("introspection.secret", b"secret\n"),
        ("smart-host.password", b"secret\n"),
    ):
        (tmp_path / name).write_bytes(octets)
        (tmp_path / name).chmod(0o600)
    return tmp_path


@pytest.mark.quick
@pytest.mark.parametrize(("kind", "setting"), SETTINGS, ids=NAMES)
def test_every_setting_says_what_it_means_and_has_a_default_or_an_example(
    kind: type[Any], setting: Setting
) -> None:
    assert setting.doc.text.endswith("."), "a sentence for an administrator"
    if setting.default in (None, "", ()) or setting.default is settings_of(kind)[0].kind:
        assert setting.doc.example, "what would it look like?"


@pytest.mark.quick
@pytest.mark.parametrize(("kind", "setting"), SETTINGS, ids=NAMES)
def test_every_setting_is_in_the_sample(kind: type[Any], setting: Setting) -> None:
    before = "# or: " if setting.doc.alternative else "#?"
    assert re.search(rf"^{before}{setting.name} = ", sample(), re.MULTILINE)


@pytest.mark.quick
def test_the_sample_as_it_stands_means_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "sample.toml").write_text(sample(), encoding="utf-8")
    (tmp_path / "empty.toml").write_text("")
    written, empty = load(tmp_path / "sample.toml", {}), load(tmp_path / "empty.toml", {})
    assert written.service == empty.service
    assert written.virtual_servers == empty.virtual_servers
    assert written.warnings == ()


@pytest.mark.quick
def test_the_sample_has_nothing_but_words_and_lines_that_fit(tmp_path: Path) -> None:
    assert sample().isascii(), "who writes it to a file may have a console that is not UTF-8"
    for line in sample().splitlines():
        assert len(line) <= 116
        assert not line or line.startswith(("# ", "[", "#[")) or line == "#" or re.match(r"#?[a-z_]+ = \S", line)


def test_every_example_of_the_sample_can_be_uncommented(folder: Path) -> None:
    # Windows accounts are for Windows alone, and stand in place of a directory.
    text = EXAMPLE.sub("", WINDOWS.sub("", sample()))
    assert text != sample()
    (folder / "mailroot.toml").write_text(text, encoding="utf-8")
    configuration = load(folder / "mailroot.toml", os.environ)
    first, second = configuration.virtual_servers
    assert (first.name, second.name) == ("internal", "partners")
    assert first.general.certificates
    assert first.delivery.outbound_security.password == "secret"
    (remote,) = first.domains.remote
    assert remote.outbound_security is not None
    assert (remote.name, remote.port) == ("*.example.net", 587)
    assert first.access.authentication.ldap is not None
    (permission,) = first.access.permissions
    assert permission.quota == Quota(), "a table within a table of a list belongs to that one"


@pytest.mark.quick
def test_each_example_can_be_uncommented_by_itself(folder: Path) -> None:
    lines = sample().splitlines()
    # What belongs together: a login has a user and a password; a section needs its head.
    together = ("username", "password", "key", "certificate")
    for number, line in enumerate(lines):
        if not EXAMPLE.match(line) or line.startswith(("#[", *(f"#{name}" for name in together))):
            continue
        section = next(text for text in reversed(lines[:number]) if text.lstrip("#").startswith("["))
        if not section.startswith("#"):
            file = folder / "mailroot.toml"
            file.write_text("\n".join([*lines[:number], line[1:], *lines[number + 1 :]]), encoding="utf-8")
            assert load(file, {}).virtual_servers != load_empty(folder) or "[service" in section, line


def load_empty(folder: Path) -> object:
    (folder / "empty.toml").write_text("")
    return load(folder / "empty.toml", {}).virtual_servers


@pytest.mark.quick
def test_what_is_in_effect_is_said_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "mailroot.toml"
    file.write_text(
        '[messages]\nmax_message_size = "3 MiB"\n[virtual_server.one.delivery.outbound_security]\n'
        'tls = "required"\nusername = "ann"\npassword = "hunter2"\n[[virtual_server.one.domains.remote]]\n'
        'name = "example.net"'
    )
    text = effective(load(file, {}))
    assert "hunter2" not in text
    assert 'password = "(hidden)"' in text
    assert 'max_message_size = "3 MiB"' in text
    assert "[virtual_server.one.messages]" in text
    assert '[[virtual_server.one.domains.remote]]\nname = "example.net"' in text
    assert f"mailroot = {str(tmp_path / 'mailroot')!r}".replace("'", '"') in text or os.name == "nt"
