"""Reads the configuration file into one value, or says everything that is wrong with it: file, line, key, and what
would be right. Nothing of a file with a mistake is taken.
"""

import codecs
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from mailroot.config.bind import Binder, KeyIndex
from mailroot.config.check import Check, Checked
from mailroot.config.lines import Path as KeyPath
from mailroot.config.lines import key_lines
from mailroot.config.model import Configuration, ServiceSettings, VirtualServerSettings
from mailroot.config.shape import settings_of
from mailroot.config.tree import Findings, Node, over, tree
from mailroot.net.listener import CannotListen, bind, parse_listen

DEFAULT_NAME = "default"
"""The virtual server of a configuration that names none."""

_LARGEST_FILE = 4 * 1024 * 1024
_LONGEST_NAME = 64
_EMBEDDED_PORT = 2525
_SECTIONS = [setting.name for setting in settings_of(VirtualServerSettings) if setting.is_section]
_WHERE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_ENDLESS_NUMBER = re.compile(r"[0-9][0-9_]{1000}")
_ENCODINGS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class ConfigurationError(Exception):
    """The configuration cannot be taken; the text names everything that is wrong, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def load(path: Path | None, environment: Mapping[str, str]) -> Configuration:
    """The configuration from a file; None: the embedded defaults. Raises ConfigurationError.

    Relative paths in the file start at its folder, those of the embedded defaults at the current one. Reads the
    files that hold secrets and certificates, and with embedded defaults finds out whether port 25 may be used.
    """
    if path is None:
        return _embedded()
    return parse(_read(path), path, environment)


def parse(text: str, path: Path, environment: Mapping[str, str]) -> Configuration:
    """The configuration from the text of the file `path`. Raises ConfigurationError."""
    root, lines = _tables(text, path)
    findings = Findings()
    configuration = _Reader(path.absolute().parent, environment, findings).read(root)
    if findings.errors or configuration is None:
        raise ConfigurationError(findings.lines(findings.errors, str(path), lines))
    warnings = findings.lines(findings.warnings, str(path), lines)
    return Configuration(configuration.service, configuration.virtual_servers, path.absolute(), tuple(warnings))


def load_service(path: Path, environment: Mapping[str, str]) -> ServiceSettings:
    """The section [service] of a file alone, whatever else is wrong in it: a service that runs is found by it, also
    while a certificate or another part of its configuration is being changed. Raises ConfigurationError."""
    root, lines = _tables(_read(path), path)
    findings = Findings()
    service = _Reader(path.absolute().parent, environment, findings).service(root)
    if findings.errors or service is None:
        raise ConfigurationError(findings.lines(findings.errors, str(path), lines))
    return service


def _tables(text: str, path: Path) -> tuple[Node, dict[KeyPath, int]]:
    """The tables of the text, and on which line everything stands. Raises ConfigurationError."""
    text = text.replace("\r\n", "\n")
    try:
        return tree(_toml(text, path)), key_lines(text)
    except RecursionError:
        raise ConfigurationError([f"{path}:1: tables or lists are nested too deeply"]) from None


def _read(path: Path) -> str:
    """The text of the file, in what encoding an editor or shell may have left it."""
    try:
        with path.open("rb") as file:
            octets = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise ConfigurationError(
            [f"{path}: there is no such file; `mailroot config sample` prints one to begin with"]
        ) from None
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {(error.strerror or str(error)).lower()}"]) from None
    if len(octets) > _LARGEST_FILE:
        raise ConfigurationError([f"{path}: is larger than 4 MiB; that is no configuration file"])
    # Windows PowerShell writes UTF-16 when the output of a command is sent into a file.
    encoding = next((name for mark, name in _ENCODINGS if octets.startswith(mark)), "utf-8")
    try:
        return octets.decode(encoding)
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            [f"{path}:{line}: is not UTF-8 text; right would be a file saved as UTF-8"]
        ) from None


def _toml(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        where = _WHERE.search(message)
        line = int(where[1]) if where is not None and where[1] else max(1, len(text.rstrip().split("\n")))
        what = message[: where.start()] if where is not None else message
        said = _in_words(what, text.split("\n")[line - 1])
        raise ConfigurationError([f"{path}:{line}: {said}"]) from None
    except ValueError:
        # Python reads no whole number of so many digits, and does not say where it stands.
        digits = _ENDLESS_NUMBER.search(text)
        line = text.count("\n", 0, digits.start()) + 1 if digits is not None else 1
        raise ConfigurationError([f"{path}:{line}: a number has thousands of digits"]) from None


def _in_words(what: str, line: str) -> str:
    """tomllib's message, with what is probably the matter in that line. The line itself may hold a secret."""
    _, equals, value = line.partition("=")
    value = value.strip()
    if "\\" in line and ("\\" in what or "hex" in what.lower() or "escape" in what.lower()):
        hint = r"in double quotes a backslash begins an escape; right would be single quotes, as in 'C:\Mail'"
    elif what.startswith("Invalid value") and re.match(r"[A-Za-z/]", value):
        hint = 'text stands in quotes; right would be KEY = "VALUE", and for a truth value true or false'
    elif what.startswith("Expected newline") and re.match(r"[0-9.]+\s*[A-Za-z]|[0-9.]+\.", value):
        hint = 'a value with a unit, or an address, stands in quotes; right would be KEY = "15 min"'
    elif "Cannot overwrite" in what or "Cannot declare" in what:
        return "this key or section is there twice; once is right"
    elif (what.startswith("Invalid value") and value[:1] in ("[", "{")) or "Unclosed" in what:
        hint = "a bracket or brace is not closed, perhaps"
    elif "Expected '='" in what and not equals:
        hint = "right would be [SECTION] or KEY = VALUE"
    elif "Illegal character" in what or "Unterminated" in what:
        hint = "a quote is missing, perhaps"
    else:
        hint = ""
    what = what.rstrip(".")
    return f"{what}; {hint}" if hint else what


class _Reader:
    """From the tables of one file to the configuration."""

    def __init__(self, folder: Path, environment: Mapping[str, str], findings: Findings) -> None:
        self._findings = findings
        index = KeyIndex()
        index.add(VirtualServerSettings)
        index.add(ServiceSettings, ("service",))
        self._binder = Binder(folder, environment, findings, index)

    def read(self, root: Node) -> Configuration | None:
        """None only if findings say why."""
        known = ("service", *_SECTIONS, "virtual_server")
        self._binder.refuse_unknown(root.tables, known)
        service = self.service(root)
        shared = Node({name: node for name, node in root.tables.items() if name in _SECTIONS}, ())
        checked: list[Checked] = []
        for name, own in self._names(root):
            node = over(shared, own) if own is not None else shared
            settings = self._settings(name, node)
            if settings is not None:
                checked.append(Checked(settings, node))
        if service is None:
            return None
        check = Check(self._findings)
        check.service(service, _service_node(root))
        for one in checked:
            check.virtual_server(one)
        if not self._findings.errors:
            check.together(checked, service)
        return Configuration(service, tuple(one.settings for one in checked))

    def service(self, root: Node) -> ServiceSettings | None:
        """None only if findings say why."""
        return self._binder.section(ServiceSettings, _service_node(root), ServiceSettings())

    def _names(self, root: Node) -> list[tuple[str, Node | None]]:
        """The virtual servers, each with its own tables; one with shared tables alone where none is named."""
        servers = root.tables.get("virtual_server")
        if servers is None or servers.value == {}:
            return [(DEFAULT_NAME, None)]
        if not isinstance(servers.value, dict):
            self._findings.error(
                servers.path, "must be tables by name; right would be [virtual_server.NAME.general]", table=True
            )
            return []
        found: list[tuple[str, Node | None]] = []
        for name, node in servers.tables.items():
            if not isinstance(node.value, dict):
                right = "right would be [virtual_server.NAME.general], and the key below it"
                self._findings.error(node.path, f"must be a table by the name of a virtual server; {right}")
            elif not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME or "/" in name:
                text = f"is no name for a virtual server; right would be up to {_LONGEST_NAME} letters and digits"
                self._findings.error(node.path, text, table=True)
            else:
                found.append((name, node))
        return found

    def _settings(self, name: str, node: Node) -> VirtualServerSettings | None:
        self._binder.refuse_unknown(node.tables, _SECTIONS)
        default = VirtualServerSettings(name)
        sections: dict[str, Any] = {}
        for setting in settings_of(VirtualServerSettings):
            if setting.is_section:
                inner = node.tables.get(setting.name)
                sections[setting.name] = self._binder.section(setting.kind, inner, getattr(default, setting.name))
        if any(section is None for section in sections.values()):
            return None
        return VirtualServerSettings(name, **sections)


def _service_node(root: Node) -> Node:
    return root.tables.get("service", Node({}, ("service",)))


def _embedded() -> Configuration:
    """The defaults as they stand in the classes, below the current folder, on a port that we may use."""
    findings = Findings()
    port = 25 if _may_listen_on(25) else _EMBEDDED_PORT
    listen = [f"127.0.0.1:{port}", f"[::1]:{port}"]
    root = tree({"general": {"listen": listen}})
    configuration = _Reader(Path.cwd(), {}, findings).read(root)
    if findings.errors:
        raise ConfigurationError([f"{where}: {text}" for (_, text), where in findings.errors.items()])
    return cast(Configuration, configuration)


def _may_listen_on(port: int) -> bool:
    """Whether this account may, and nobody else does."""
    for endpoint in (*parse_listen(f"127.0.0.1:{port}"), *parse_listen(f"[::1]:{port}")):
        try:
            listening = bind(endpoint)
        except CannotListen:
            return False
        if listening is not None:
            listening.close()
    return True
