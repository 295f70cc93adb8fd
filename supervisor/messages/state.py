"""What a master keeps of a child's output when it hands over to its next life, or to another master. Data only."""

from __future__ import annotations

import msgspec

from supervisor.messages.crash import LogLine

NO_FD = -1


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """One pipe of a child's output. `rest` is the beginning of a line whose end has not come yet."""

    fd: int = NO_FD
    rest: bytes = b""
    continues: bool = False  # the rest goes on a line that was cut
    kept: tuple[str, ...] = ()  # the last lines


class Pipes(msgspec.Struct, frozen=True, kw_only=True):
    """Stdout and stderr of one child."""

    stdout: Stream = Stream()
    stderr: Stream = Stream()
    last: tuple[LogLine, ...] = ()  # lines of both, as they came
