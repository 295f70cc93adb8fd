"""From a file's text and the flags to `Settings`, or to every mistake in them at once.

Invariant: `load` is a function of its arguments alone, so the master gets at every roll what the command got at the
start, but for what the file says by then; and it returns nothing that it has not checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from supervisor.config import options, values
from supervisor.config.option import Section
from supervisor.config.settings import AppSettings, Settings, SupervisorSettings
from supervisor.errors import SettingsError, UsageError

DEFAULT_NAME = "web"

_TOML_PLACE = re.compile(r"(?P<what>.*) \(at (?P<place>[^()]+)\)", re.DOTALL)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_TARGET_EXPECTED = "missing: module:attribute or module:factory(), such as myproject.asgi:app"

_NEEDS = {
    "keyfile": "certfile",
    "keyfile_password_file": "certfile",
    "ciphers": "certfile",
    "ca_certs": "certfile",
    "cert_reqs": "ca_certs",
}

Table = Mapping[str, object]
Found = dict[str, Any]  # checked values by option key; each fits the field of that name


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where settings come from; it travels to the master, which reads the file again at every roll."""

    path: str | None = None  # the TOML file
    app: str | None = None  # the APP argument
    flags: dict[str, str | list[str]] = {}  # texts by option key; a list where the flag is repeatable


def load(source: Source, text: str | bytes | None) -> Settings:
    """Read the file's `text` (None: there is no file), then lay the flags over it.

    Raises `SettingsError` with every wrong setting, or `UsageError` when there is no app, or no one app that the
    flags can be meant for.
    """
    where = source.path or "command line"
    problems: list[SettingsError] = []
    document = _document(where, text)
    tables = _app_tables(where, document, problems)
    supervisor = _supervisor(where, document, problems) | _flags(source, "supervisor", problems)
    flags = _flags(source, "app", problems)
    if not tables and source.app is None:
        _refuse(problems)
        raise UsageError(_no_app(source))
    if len(tables) > 1:
        _refuse_flags_for_many(source, tables)
    apps = []
    for name, table in (tables or {DEFAULT_NAME: {}}).items():
        found = _read(where, f"[app.{name}]", "app", table, problems)
        if len(tables) <= 1:
            found = _overlaid(found, flags)
        if "app" not in table and source.app is None:
            problems.append(SettingsError(where, f"[app.{name}] app", _TARGET_EXPECTED))
        problems.extend(_inconsistent(where, f"[app.{name}] ", found))
        apps.append((name, found))
    _refuse(problems)
    return assemble(where, [AppSettings(name=name, **found) for name, found in apps], SupervisorSettings(**supervisor))


def app_settings(where: str, name: object, given: Table) -> AppSettings:
    """One app's settings from Python values by key. Raises `SettingsError` with every wrong one."""
    problems: list[SettingsError] = []
    found = _read(where, "", "app", given, problems)
    try:
        checked = values.parse_app_name(name)
    except ValueError as error:
        problems.append(SettingsError(where, "name", str(error)))
    if "app" not in given:
        problems.append(SettingsError(where, "app", _TARGET_EXPECTED))
    problems.extend(_inconsistent(where, "", found))
    _refuse(problems)
    return AppSettings(name=checked, **found)


def supervisor_settings(where: str, given: Table) -> SupervisorSettings:
    """The supervisor's settings from Python values by key. Raises `SettingsError` with every wrong one."""
    problems: list[SettingsError] = []
    found = _read(where, "", "supervisor", given, problems)
    _refuse(problems)
    return SupervisorSettings(**found)


def assemble(where: str, apps: Sequence[AppSettings], supervisor: SupervisorSettings) -> Settings:
    """Put checked parts together. Raises `SettingsError` where two apps want the same name or address."""
    problems: list[SettingsError] = []
    names: set[str] = set()
    owners: dict[str, str] = {}
    for app in apps:
        if app.name in names:
            problems.append(SettingsError(where, f"[app.{app.name}]", "a name that no other app has"))
        names.add(app.name)
        for address in app.bind:
            owner = owners.setdefault(address, app.name)
            if owner != app.name and not address.endswith(":0"):  # port 0 is another port each time
                expected = f"an address of its own, but [app.{owner}] listens on {address} too"
                problems.append(SettingsError(where, f"[app.{app.name}] bind", expected))
    _refuse(problems)
    return Settings(apps=tuple(apps), supervisor=supervisor)


def _document(where: str, text: str | bytes | None) -> Table:
    """The TOML document; one mistake of syntax hides all else, so it is raised alone."""
    if text is None:
        return {}
    import tomllib  # a master without a settings file keeps its 0.2 MB

    try:
        return tomllib.loads(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError as error:
        raise SettingsError(where, f"byte {error.start + 1}", "text in UTF-8") from None
    except RecursionError:
        raise SettingsError(where, "", "TOML, not nested this deeply") from None
    except ValueError as error:
        match = _TOML_PLACE.fullmatch(str(error))
        what, place = (match["what"], match["place"]) if match else (str(error), "")
        raise SettingsError(where, place, f"not valid TOML: {what}") from None


def _app_tables(where: str, document: Table, problems: list[SettingsError]) -> dict[str, Table]:
    """The `[app.NAME]` tables with a right name; says what else stands at the top of the file."""
    strays = [key for key in document if key not in ("app", "supervisor")]
    problems.extend(SettingsError(where, *_unknown_top(key, document[key])) for key in strays)
    section = document.get("app", {})
    if not isinstance(section, dict):
        problems.append(SettingsError(where, "app", "a table for each app, such as [app.web]"))
        return {}
    tables: dict[str, Table] = {}
    for name, table in section.items():
        if not isinstance(table, dict):
            expected = f"a setting belongs in the table of a named app, such as [app.{DEFAULT_NAME}]"
            problems.append(SettingsError(where, f"[app] {_written(name)}", expected))
            continue
        try:
            tables[values.parse_app_name(name)] = table
        except ValueError as error:
            problems.append(SettingsError(where, f"[app.{_written(name)}]", str(error)))
    return tables


def _supervisor(where: str, document: Table, problems: list[SettingsError]) -> Found:
    table = document.get("supervisor", {})
    if isinstance(table, dict):
        return _read(where, "[supervisor]", "supervisor", table, problems)
    problems.append(SettingsError(where, "supervisor", "a table: [supervisor]"))
    return {}


def _read(where: str, prefix: str, section: Section, table: Table, problems: list[SettingsError]) -> Found:
    """The right values of one table by key; each wrong one becomes a problem."""
    known = options.of_section(section)
    found: Found = {}
    for key, value in table.items():
        place = f"{prefix} {_written(key)}".lstrip()
        if key not in known:
            problems.append(SettingsError(where, place, _unknown_key(key, section)))
            continue
        try:
            found[key] = known[key].parse(value)
        except ValueError as error:
            problems.append(SettingsError(where, place, str(error)))
    return found


def _flags(source: Source, section: Section, problems: list[SettingsError]) -> Found:
    """The right values of the command line's options of one section; each wrong one becomes a problem."""
    given: dict[str, object] = dict(source.flags)
    if source.app is not None:
        given["app"] = source.app
    found: Found = {}
    for key, option in options.of_section(section).items():
        if key in given:
            try:
                found[key] = option.parse(given[key])
            except ValueError as error:
                problems.append(SettingsError(option.flag, "", str(error)))
    return found


def _overlaid(found: Found, flags: Found) -> Found:
    """Flags win over the file; `--env` and `--credentials` add to the file's tables name by name."""
    merged = found | flags
    for key in ("env", "credentials"):
        if key in merged:
            merged[key] = found.get(key, {}) | flags.get(key, {})
    return merged


def _inconsistent(where: str, prefix: str, found: Found) -> Iterator[SettingsError]:
    """Settings, each right by itself, that lack the one that gives them a meaning."""
    for key, needed in _NEEDS.items():
        if found.get(key) not in (None, "none") and found.get(needed) is None:
            yield SettingsError(where, prefix + key, f"means nothing without {needed}")


def _refuse(problems: Sequence[SettingsError]) -> None:
    if problems:
        raise SettingsError.joined(problems)


def _refuse_flags_for_many(source: Source, tables: Iterable[str]) -> None:
    """With several apps in the file nobody can say whose a flag of the app section is."""
    mine = options.of_section("app")
    given = (["APP"] if source.app is not None else []) + [mine[key].flag for key in source.flags if key in mine]
    if given:
        apps = ", ".join(f"[app.{name}]" for name in tables)
        raise UsageError(f"{', '.join(given)}: which app? {source.path} has {apps}; write it there")


def _no_app(source: Source) -> str:
    if source.path is None:
        return "no app: name one, such as holdfast run myproject.asgi:app, or write holdfast.toml (see holdfast new)"
    return f'no app: {source.path} has no [app.NAME] table; write one with app = "module:attribute", or name it: APP'


def _unknown_top(key: str, value: object) -> tuple[str, str]:
    """What to call an unknown entry at the top of the file, and what to say about it."""
    if not isinstance(value, dict):
        if key in options.BY_KEY:
            table = "[supervisor]" if options.BY_KEY[key].section == "supervisor" else f"[app.{DEFAULT_NAME}]"
            return _written(key), f"belongs in a table; write it below {table}"
        return _written(key), f"unknown; settings stand below [supervisor] or [app.NAME], such as [app.{DEFAULT_NAME}]"
    close = _closest(key, ("app", "apps", "supervisor"))
    hint = {"app": f"; did you mean [app.{DEFAULT_NAME}]?", "supervisor": "; did you mean [supervisor]?"}
    meant = close.rstrip("s")
    return f"[{_written(key)}]", f"unknown; the tables are [supervisor] and [app.NAME]{hint.get(meant, '')}"


def _unknown_key(key: str, section: Section) -> str:
    known = options.of_section(section)
    elsewhere = options.BY_KEY.get(key)
    if elsewhere is not None:
        return f"belongs in {'[supervisor]' if elsewhere.section == 'supervisor' else 'the table of an app'}"
    close = _closest(key.replace("-", "_").lower(), known)
    return f"unknown; did you mean {close}?" if close else f"unknown; one of {', '.join(known)}"


def _closest(key: str, known: Iterable[str]) -> str:
    """The one that was meant, or nothing."""
    import difflib  # 0.2 MB that a file without mistakes does not need

    return next(iter(difflib.get_close_matches(key, list(known), 1)), "")


def _written(key: str) -> str:
    """A key as TOML writes it, kept on one line."""
    return key if _BARE_KEY.fullmatch(key) else values.shown(key)
