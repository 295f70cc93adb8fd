"""The process that libFuzzer takes over: one target, its arguments, and no return."""

from __future__ import annotations

import sys

import atheris

from fuzzing import targets


def main(name: str, arguments: list[str]) -> None:
    with atheris.instrument_imports(include=targets.INSTRUMENTED, enable_loader_override=False):
        target = targets.load(name)
    atheris.Setup([sys.argv[0], *arguments], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
