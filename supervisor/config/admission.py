"""Options about who may control the instance."""

from __future__ import annotations

import re

from supervisor.config.option import Option
from supervisor.config.settings import ControlGroup
from supervisor.config.values import shown

_GROUP = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,31})(?::(read|full))?")


def parse_control_group(value: object) -> ControlGroup:
    """`ops` and `ops:read` may look, `ops:full` may do all."""
    found = _GROUP.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"a group, GROUP:read or GROUP:full, not {shown(value)}")
    return ControlGroup(found[1], may_command=found[2] == "full")


ADMISSION: tuple[Option, ...] = (
    Option(
        key="control_group",
        flags=("--control-group",),
        section="supervisor",
        group="Logs and control",
        parse=parse_control_group,
        metavar="GROUP",
        default="none",
        help="its members may use the control socket, then mode 0660: to read, or with `:full` for everything",
    ),
)
