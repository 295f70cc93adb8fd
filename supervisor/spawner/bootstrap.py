"""Runs a module of ours in a release's own interpreter, in which holdfast need not be installed.

    PYTHON bootstrap.py MODULE EXTENSION_SUFFIX PATH [ARGUMENT]...

`EXTENSION_SUFFIX` and `PATH` are the master's: how its extension modules end, and where it imports from.

Invariants:
- `supervisor` is the package that this file lies in: the code that the master runs, whatever the release has installed.
- What that needs besides is the release's own if it has it, else the master's, if that fits the interpreter.
  Nothing else of the master's can be imported: a release that lacks something must not find it here by luck.
- What is missing or does not fit is told in one line, in the form in which the starter of `MODULE` listens.
- It stands alone, and is read by older Pythons, too, which are told that they are older.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys

SPAWNER = "supervisor.spawner.__main__"
CHECK = "supervisor.spawner.check"
CHANNEL_FD = 3

OLDEST_PYTHON = (3, 11)
NEEDS = {  # from which version on, and up to which one, if there is a bound
    "msgspec": ("0.19", None),
    "setproctitle": ("1.3.3", None),
    "uvloop": ("0.21", None),
    "websockets": ("13.1", None),
    "zttp": ("0.0.35", "0.1"),
}
LENT = {*NEEDS, "typing_extensions"}  # which zttp imports before Python 3.13


class Lender:
    """The last finder on `sys.meta_path`: what we need, from the master's import path."""

    def __init__(self, path: list[str]) -> None:
        self._path = path

    def find_spec(
        self, name: str, path: object = None, _target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if path is None and name in LENT:
            return importlib.machinery.PathFinder.find_spec(name, self._path)
        return None


def main() -> int:
    """Run the module that the command line names; returns its exit code."""
    module, suffix, path = sys.argv[1:4]
    sys.argv[1:4] = []
    version = "{}.{}".format(*sys.version_info)
    if sys.version_info[:2] < OLDEST_PYTHON:
        needed = "{}.{}".format(*OLDEST_PYTHON)
        return refuse(module, f"python {sys.executable} is Python {version}; holdfast needs {needed} or later")
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != here]
    _import_ours(os.path.dirname(here))
    if suffix == importlib.machinery.EXTENSION_SUFFIXES[0]:
        sys.meta_path.append(Lender(path.split(os.pathsep)))
    problems = [problem for name in NEEDS if (problem := _problem(name))]
    if problems:
        what = f"python {sys.executable} (Python {version}) has not all that holdfast needs: {', '.join(problems)}"
        names = " ".join(f"'{name}>={at_least}'" for name, (at_least, _below) in NEEDS.items())
        return refuse(module, f"{what}; install it there: pip install {names}")
    code: int = importlib.import_module(module).main()
    return code


def _import_ours(root: str) -> None:
    """Make `supervisor` the package at `root`; its modules are found through it, not through `sys.path`."""
    where = os.path.join(root, "__init__.py")
    spec = importlib.util.spec_from_file_location("supervisor", where, submodule_search_locations=[root])
    assert spec is not None
    assert spec.loader is not None
    ours = importlib.util.module_from_spec(spec)
    sys.modules["supervisor"] = ours
    spec.loader.exec_module(ours)


def _problem(name: str) -> str | None:
    """What is wrong with a package that we need, or None."""
    at_least, below = NEEDS[name]
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        return f"no {name}" if error.name == name else f"{name} without {error.name}"
    except Exception as error:
        return f"{name} can't be imported ({' '.join(str(error).split())})"
    version = _version(name, found.__file__) or at_least
    if _numbers(version) < _numbers(at_least):
        return f"{name} {version}, but {at_least} or later is needed"
    if below is not None and _numbers(version) >= _numbers(below):
        return f"{name} {version}, but one before {below} is needed"
    return None


def _version(name: str, file: str | None) -> str | None:
    """The version that the folder of an installed package's metadata is named after."""
    folder = os.path.dirname(os.path.dirname(file or ""))
    start, end = f"{name}-", ".dist-info"
    names = os.listdir(folder) if folder else []
    return next((e[len(start) : -len(end)] for e in names if e.startswith(start) and e.endswith(end)), None)


def _numbers(version: str) -> tuple[int, ...]:
    """`1.3.3rc1` is (1, 3, 3): what comes after the digits does not matter here."""
    parts = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)


def refuse(module: str, reason: str) -> int:
    """Tell it to whoever has started this module of ours; returns the exit code."""
    if module == SPAWNER:
        os.write(CHANNEL_FD, import_failed(reason))
    elif module == CHECK:
        import json

        print(json.dumps({"reason": reason}))
    else:
        print(f"holdfast: {reason}", file=sys.stderr)
    return 1


def import_failed(reason: str) -> bytes:
    """The message `ImportFailed` of `supervisor.messages.wire`, made without msgspec, which may be what is missing."""
    return b"\x82" + b"".join(_text(text) for text in ("type", "ImportFailed", "reason", reason))


def _text(text: str) -> bytes:
    """The msgpack format str 16."""
    data = text.encode("utf-8", "replace")[:0xFFFF]
    return b"\xda" + len(data).to_bytes(2, "big") + data


if __name__ == "__main__":
    sys.exit(main())
