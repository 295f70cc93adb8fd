"""Every option there is, in one table: the TOML check, the command line, `--help` and the README are made from it.

Invariant: an option exists exactly when it has a row here, and its key is a field of its section's settings record.
"""

from __future__ import annotations

from supervisor.config import values
from supervisor.config.admission import ADMISSION
from supervisor.config.bounds import BOUNDS
from supervisor.config.edge import EDGE
from supervisor.config.hooks import HOOKS
from supervisor.config.option import Option, Section
from supervisor.config.overload import OVERLOAD
from supervisor.config.privileges import PRIVILEGE_OPTIONS
from supervisor.config.watching import WATCHING
from supervisor.config.wear import LIMITS, WEAR
from supervisor.config.workers import parse_workers

_LISTENING = "Listening and importing"
_WORKERS = "Workers"
_TIMES = "Times (seconds, or 30s, 5m)"
_WEBSOCKET = "WebSocket"
_LOGS = "Logs and control"

OPTIONS: tuple[Option, ...] = (
    Option(
        key="app",
        flags=(),
        section="app",
        group=_LISTENING,
        parse=values.parse_target,
        metavar="APP",
        default="",
        help="module:attribute, or module:factory() called with no arguments; ASGI 3 or WSGI",
    ),
    Option(
        key="bind",
        flags=("-b", "--bind"),
        section="app",
        group=_LISTENING,
        parse=values.parse_binds,
        metavar="ADDR",
        default="127.0.0.1:8000",
        help="where to listen: host:port, [v6]:port, unix:PATH, fd://N or systemd:NAME",
        repeatable=True,
    ),
    Option(
        key="backlog",
        flags=("--backlog",),
        section="app",
        group=_LISTENING,
        parse=values.count(1, values.MAX_BACKLOG),
        metavar="N",
        default="4096",
        help="connections that may wait to be accepted; the kernel allows no more than net.core.somaxconn",
    ),
    Option(
        key="defer_accept",
        flags=("--defer-accept",),
        section="app",
        group=_LISTENING,
        parse=values.seconds(),
        metavar="S",
        default="0",
        help="the kernel keeps a new TCP connection until its first bytes, at most about this long; 0 = not at all",
    ),
    Option(
        key="unix_mode",
        flags=("--unix-mode",),
        section="app",
        group=_LISTENING,
        parse=values.parse_mode,
        metavar="MODE",
        default="0666",
        help="permissions of a unix: socket, in octal; to connect takes the right to write",
    ),
    Option(
        key="unix_owner",
        flags=("--unix-owner",),
        section="app",
        group=_LISTENING,
        parse=values.parse_owner,
        metavar="USER:GROUP",
        default="none",
        help="who a unix: socket belongs to, or :GROUP alone, or USER; without it, whoever starts holdfast",
    ),
    Option(
        key="interface",
        flags=("--interface",),
        section="app",
        group=_LISTENING,
        parse=values.one_of("asgi", "wsgi"),
        metavar="KIND",
        default="told by itself",
        help="asgi or wsgi, for an app whose kind can't be told",
    ),
    Option(
        key="chdir",
        flags=("--chdir",),
        section="app",
        group=_LISTENING,
        parse=values.parse_path,
        metavar="DIR",
        default="working directory",
        help="where the app runs and is imported from; looked up anew at each roll, so it may be a symlink",
    ),
    Option(
        key="python",
        flags=("--python",),
        section="app",
        group=_LISTENING,
        parse=values.parse_path,
        metavar="FILE",
        default="holdfast's own",
        help="the interpreter that runs the app, such as .venv/bin/python; relative to --chdir, looked up with it",
    ),
    Option(
        key="env",
        flags=("--env",),
        section="app",
        group=_LISTENING,
        parse=values.parse_env,
        metavar="K=V",
        default="none",
        help="added to the app's environment",
        repeatable=True,
    ),
    Option(
        key="workers",
        flags=("-w", "--workers"),
        section="app",
        group=_WORKERS,
        parse=parse_workers,
        metavar="N",
        default="auto",
        help="processes; auto = CPUs this process may use, 2..8 = more of them while they are busy",
    ),
    Option(
        key="threads",
        flags=("--threads",),
        section="app",
        group=_WORKERS,
        parse=values.count(1, values.MAX_THREADS),
        metavar="N",
        default="8",
        help="WSGI: requests at once in a worker; 1 = inline, no threads",
    ),
    Option(
        key="preload",
        flags=("--preload",),
        section="app",
        group=_WORKERS,
        parse=values.one_of("auto", "on", "off"),
        metavar="MODE",
        default="auto",
        help="auto, on or off: import once, then fork the workers; auto falls back to off, with a warning that names "
        "the threads found, when the import left threads running",
    ),
    Option(
        key="ready_path",
        flags=("--ready-path",),
        section="app",
        group=_WORKERS,
        parse=values.parse_ready_path,
        metavar="PATH",
        default="none",
        help="a worker is ready only when this path answers below 400",
    ),
    Option(
        key="surge",
        flags=("--surge",),
        section="app",
        group=_WORKERS,
        parse=values.count(1, values.MAX_WORKERS),
        metavar="N",
        default="1",
        help="new workers above --workers during a roll",
    ),
    Option(
        key="bake",
        flags=("--bake",),
        section="app",
        group=_WORKERS,
        parse=values.seconds(),
        metavar="S",
        default="2",
        help="how long the first new worker is watched before the roll goes on",
    ),
    Option(
        key="canary_share",
        flags=("--canary-share",),
        section="app",
        group=_WORKERS,
        parse=values.parse_share,
        metavar="SHARE",
        default="auto",
        help="the most of all requests that the first new worker may take meanwhile; auto = an even share",
    ),
    Option(
        key="keep_previous",
        flags=("--keep-previous",),
        section="app",
        group=_WORKERS,
        parse=values.parse_switch,
        metavar="SWITCH",
        default="on",
        help="on or off: keep the previous release at hand, so that holdfastctl rollback needs no import",
    ),
    *EDGE,
    Option(
        key="boot_timeout",
        flags=("--boot-timeout",),
        section="app",
        group=_TIMES,
        parse=values.seconds(positive=True),
        metavar="S",
        default="60",
        help="start to ready",
    ),
    Option(
        key="drain_timeout",
        flags=("--drain-timeout",),
        section="app",
        group=_TIMES,
        parse=values.seconds(),
        metavar="S",
        default="30",
        help="a leaving worker's in-flight requests get this long",
    ),
    Option(
        key="idle_linger",
        flags=("--idle-linger",),
        section="app",
        group=_TIMES,
        parse=values.seconds(),
        metavar="S",
        default="1",
        help="on stopping, a request that comes this late on an idle connection is still answered",
    ),
    *WEAR,
    Option(
        key="max_inflight",
        flags=("--max-inflight",),
        section="app",
        group=LIMITS,
        parse=values.count(1, values.MAX_INFLIGHT),
        metavar="N",
        default="1000",
        help="requests at once in a worker; above it the worker stops accepting",
    ),
    *WATCHING,
    *OVERLOAD,
    *BOUNDS,
    *HOOKS,
    *PRIVILEGE_OPTIONS,
    Option(
        key="ws_max_size",
        flags=("--ws-max-size",),
        section="app",
        group=_WEBSOCKET,
        parse=values.parse_message_size,
        metavar="SIZE",
        default="16M",
        help="largest message taken; above it the WebSocket is closed with 1009",
    ),
    Option(
        key="ws_ping_interval",
        flags=("--ws-ping-interval",),
        section="app",
        group=_WEBSOCKET,
        parse=values.seconds(),
        metavar="S",
        default="20",
        help="from one keep-alive ping to the next; 0 sends none",
    ),
    Option(
        key="ws_ping_timeout",
        flags=("--ws-ping-timeout",),
        section="app",
        group=_WEBSOCKET,
        parse=values.seconds(positive=True),
        metavar="S",
        default="20",
        help="a client that answers no ping for so long is given up",
    ),
    Option(
        key="ws_deflate",
        flags=("--ws-deflate",),
        section="app",
        group=_WEBSOCKET,
        parse=values.parse_switch,
        metavar="SWITCH",
        default="on",
        help="on or off: compress messages (permessage-deflate) for clients that ask for it",
    ),
    Option(
        key="access_log",
        flags=("--access-log",),
        section="app",
        group=_LOGS,
        parse=values.parse_log_path,
        metavar="PATH",
        default="off",
        help="one line a request; - is stdout",
    ),
    Option(
        key="access_log_format",
        flags=("--access-log-format",),
        section="app",
        group=_LOGS,
        parse=values.parse_access_format,
        metavar="FORMAT",
        default="auto",
        help="combined, json, or a format with gunicorn's atoms; auto follows the format of all logs",
    ),
    Option(
        key="log_format",
        flags=("--log-format",),
        section="supervisor",
        group=_LOGS,
        parse=values.one_of("text", "json"),
        metavar="FORMAT",
        default="text",
        help="text or json, for all logs",
    ),
    Option(
        key="control",
        flags=("--control",),
        section="supervisor",
        group=_LOGS,
        parse=values.parse_socket_path,
        metavar="PATH",
        default="in the runtime directory",
        help="unix socket of the control API, mode 0600",
    ),
    *ADMISSION,
    Option(
        key="stop_delay",
        flags=("--stop-delay",),
        section="supervisor",
        group=_TIMES,
        parse=values.seconds(),
        metavar="S",
        default="0",
        help="after TERM all goes on for so long, while whoever routes connections here hears of the stop",
    ),
    Option(
        key="pidfile",
        flags=("--pidfile",),
        section="supervisor",
        group=_LOGS,
        parse=values.parse_path,
        metavar="PATH",
        default="none",
        help="the master's pid is written here",
    ),
    Option(
        key="crash_dir",
        flags=("--crash-dir",),
        section="supervisor",
        group=_LOGS,
        parse=values.parse_path,
        metavar="DIR",
        default="beside the control socket",
        help="crash reports, the newest 50; under systemd, with StateDirectory=, they go there by default",
    ),
    Option(
        key="orphan_grace",
        flags=("--orphan-grace",),
        section="supervisor",
        group=_LOGS,
        parse=values.seconds(),
        metavar="S",
        default="60",
        help="if the master is killed, its workers serve on so long for the next one to adopt them; 0: they leave",
    ),
)

BY_KEY: dict[str, Option] = {option.key: option for option in OPTIONS}


def of_section(section: Section) -> dict[str, Option]:
    """The options of one section, by key, in the order of the table."""
    return {option.key: option for option in OPTIONS if option.section == section}


def markdown() -> str:
    """The README's table of options."""
    lines = ["| option | setting | default | meaning |", "| --- | --- | --- | --- |"]
    lines.append("| `-c, --config FILE` | | `./holdfast.toml` if there | TOML settings; flags win over the file |")
    for option in OPTIONS:
        flags = f"`{', '.join(option.flags)} {option.metavar}`" if option.flags else f"`{option.metavar}`"
        flags += " (repeatable)" if option.repeatable else ""
        setting = f"`[supervisor] {option.key}`" if option.section == "supervisor" else f"`{option.setting}`"
        lines.append(f"| {flags} | {setting} | {option.default} | {option.help} |")
    return "\n".join(lines) + "\n"
