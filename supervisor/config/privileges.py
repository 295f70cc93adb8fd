"""Options about what an app's processes may do, and what is kept from others: users, limits, secrets."""

from __future__ import annotations

import re

from supervisor.config import values
from supervisor.config.option import Option

PRIVILEGES = "Privileges and secrets"

LARGEST_ADJUSTMENT = 1000  # OOM_SCORE_ADJ_MAX, proc(5)

_ACCOUNT = re.compile(rf"{values.ACCOUNT}", re.ASCII)
_CREDENTIAL = re.compile(r"[A-Za-z0-9_.:@+-]{1,255}", re.ASCII)


def parse_account(value: object) -> str:
    """A user or a group by name or number; whether the machine knows it shows at the start."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _ACCOUNT.fullmatch(text):
        raise ValueError(f"a name or a number, such as www-data, not {values.shown(value)}")
    return text


def parse_credentials(value: object) -> dict[str, str]:
    """A table of names of variables and of systemd's credentials, or a list of `K=NAME` texts."""
    found = values.parse_env(value)
    for name in found.values():
        if not _CREDENTIAL.fullmatch(name) or name in (".", ".."):
            raise ValueError(
                f'names of credentials such as {{ DATABASE_URL = "database-url" }}, not {values.shown(name)}'
            )
    return found


PRIVILEGE_OPTIONS: tuple[Option, ...] = (
    Option(
        key="user",
        flags=("--user",),
        section="app",
        group=PRIVILEGES,
        parse=parse_account,
        metavar="USER",
        default="none",
        help="who spawners, workers and hooks run as, the master staying what it is; takes root",
    ),
    Option(
        key="group",
        flags=("--group",),
        section="app",
        group=PRIVILEGES,
        parse=parse_account,
        metavar="GROUP",
        default="none",
        help="their group; without it, that of --user",
    ),
    Option(
        key="no_new_privs",
        flags=("--no-new-privs",),
        section="app",
        group=PRIVILEGES,
        parse=values.parse_switch,
        metavar="SWITCH",
        default="on",
        help="on or off: they have no capabilities, and gain no privileges by sudo or other setuid programs",
    ),
    Option(
        key="umask",
        flags=("--umask",),
        section="app",
        group=PRIVILEGES,
        parse=values.parse_mode,
        metavar="MODE",
        default="none",
        help="what they take from the permissions of files they make, in octal; without it, the master's",
    ),
    Option(
        key="oom_score_adj",
        flags=("--oom-score-adj",),
        section="app",
        group=PRIVILEGES,
        parse=values.count(0, LARGEST_ADJUSTMENT),
        metavar="N",
        default="100",
        help="added to the master's score: out of memory, the kernel kills a worker before it; 1000 = before all else",
    ),
    Option(
        key="env_file",
        flags=("--env-file",),
        section="app",
        group=PRIVILEGES,
        parse=values.parse_path,
        metavar="FILE",
        default="none",
        help="lines K=V for the app's environment, as systemd's EnvironmentFile= has them; read again at each roll",
    ),
    Option(
        key="credentials",
        flags=("--credentials",),
        section="app",
        group=PRIVILEGES,
        parse=parse_credentials,
        metavar="K=NAME",
        default="none",
        help="put systemd's credential NAME (LoadCredential=) into the app's environment as K",
        repeatable=True,
    ),
)
