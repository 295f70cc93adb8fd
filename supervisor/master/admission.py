"""Who may control the instance, as the settings say it, made into what the kernel and the control server go by."""

from __future__ import annotations

from supervisor.config.settings import ControlGroup
from supervisor.control.access import Access, Permit, permit
from supervisor.kernel.instance import find_group, is_open_to
from supervisor.observe.journal import Journal


def admission(group: ControlGroup | None) -> tuple[int | None, Permit]:
    """The group that the socket is given to, if any, and who may what. Raises `SurroundingsError`: no such group."""
    if group is None:
        return None, permit()
    number = find_group(group.name)
    return number, permit(number, Access.FULL if group.may_command else Access.READ)


def warn_of_closed_door(group: ControlGroup | None, path: str, journal: Journal) -> None:
    """A directory that keeps the group out, as a runtime directory does, makes the setting useless."""
    if group is not None and not is_open_to(find_group(group.name), path):
        text = f"control_group {group.name} can't get to {path}: its directory is not open to that group"
        journal.event("log", text, level="warning")
