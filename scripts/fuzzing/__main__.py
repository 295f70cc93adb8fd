"""Runs targets one after another, each in a process of its own, or one input again in this one."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from fuzzing import targets

HOME = Path(__file__).resolve().parents[2] / ".fuzz"
MAX_LEN = 1200  # bytes; what takes longer to go wrong is found by the limits that a target tightens
ONE_RUN_S = 10
RSS_MB = 1024


class Run:
    """One target's folder and its next run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = HOME / name
        self.found = self.folder / "found"
        self.log = self.folder / "log"
        for folder in ("corpus", "seeds", "found"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)

    def prepare(self) -> None:
        """Write the seeds and the words that inputs are made of."""
        target = targets.load(self.name)
        for number, seed in enumerate(target.seeds()):
            (self.folder / "seeds" / str(number)).write_bytes(seed)
        words = ("".join(f"\\x{byte:02x}" for byte in token) for token in target.TOKENS)
        (self.folder / "words").write_text("".join(f'"{word}"\n' for word in words))

    def fuzz(self, seconds: int) -> bool:
        """Whether nothing was found in that time."""
        arguments = [
            f"-max_total_time={seconds}",
            f"-max_len={MAX_LEN}",
            f"-timeout={ONE_RUN_S}",
            f"-rss_limit_mb={RSS_MB}",
            f"-artifact_prefix={self.found}/",
            f"-dict={self.folder / 'words'}",
            "-print_final_stats=1",
            str(self.folder / "corpus"),
            str(self.folder / "seeds"),
        ]
        command = [sys.executable, "-m", "fuzzing.child", self.name, *arguments]
        with self.log.open("wb") as log:
            status = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        said = self.log.read_text(errors="replace")
        if status == 0:
            runs = re.search(r"number_of_executed_units: (\d+)", said)
            print(f"{self.name}: {int(runs[1]) if runs else 0:,} runs in {seconds} s, nothing found", flush=True)
            return True
        _before, _mark, failure = said.partition("=== Uncaught Python exception: ===\n")
        print((failure or said[-2000:]).partition("\n==")[0])
        saved = re.search(r"Test unit written to (\S+)", said)
        print(f"{self.name}: found something; see it again with: scripts/fuzz {self.name} {saved[1] if saved else ''}")
        return False


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=tuple(targets.SHARES), help="one of them; all when it is left out")
    parser.add_argument("file", nargs="?", type=Path, help="an input to run once, with its traceback")
    parser.add_argument("--seconds", type=int, default=600, metavar="N", help="for all targets together (600)")
    asked = parser.parse_args()
    if asked.seconds < 1:
        parser.error("--seconds is a positive number")
    if asked.file is not None and not asked.file.is_file():
        parser.error(f"there is no file {asked.file}")
    return asked


def main() -> int:
    asked = parse()
    if asked.file is not None:
        targets.load(asked.target).check(asked.file.read_bytes())
        print(f"{asked.target}: nothing wrong with {asked.file}")
        return 0
    shares = {asked.target: 1} if asked.target else targets.SHARES
    clean = True
    for name, share in shares.items():
        run = Run(name)
        run.prepare()
        clean = run.fuzz(max(1, asked.seconds * share // sum(shares.values()))) and clean
    return 0 if clean else 1


if __name__ == "__main__":
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # instrumented code is nobody else's
    sys.exit(main())
