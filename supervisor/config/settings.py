"""The settings as typed, frozen records: what every process is told, after files and flags were read and checked.

Invariant: a value here has been validated; nothing downstream checks a setting again.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Interface = Literal["asgi", "wsgi"]
Preload = Literal["auto", "on", "off"]
CertReqs = Literal["none", "optional", "required"]
LogFormat = Literal["text", "json"]
Hook = str | tuple[str, ...]
"""`module:function`, or a command."""

# What zttp 0.0.35 parses at most; it has no settings for them.
MAX_REQUEST_LINE = 16 * 1024 - 1  # and so much in one field, both without the line's end
MAX_REQUEST_HEAD = 64 * 1024
MAX_REQUEST_FIELDS = 100


class MemoryShare(msgspec.Struct, frozen=True):
    """A part, above 0 and at most 1, of the memory that holdfast may use: all workers of the app have that together."""

    part: float


class Span(msgspec.Struct, frozen=True, tag="span"):
    """A range of workers to scale in, both ends included."""

    least: int
    most: int


class AppSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One `[app.NAME]` table. Times are seconds, sizes bytes; `None` means no limit or not set."""

    name: str
    app: str
    interface: Interface | None = None
    bind: tuple[str, ...] = ("127.0.0.1:8000",)
    backlog: int = 4096
    defer_accept: float = 0.0
    unix_mode: int = 0o666
    unix_owner: str | None = None  # None: whoever starts holdfast
    certfile: str | None = None  # None: no TLS
    keyfile: str | None = None  # None: in certfile
    keyfile_password_file: str | None = None
    ciphers: str | None = None  # None: Python's choice
    ca_certs: str | None = None
    cert_reqs: CertReqs = "none"
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1/32", "::1/128")  # empty: nobody; "*": everybody
    proxy_protocol: bool = False
    root_path: str | None = None  # begins with / and ends without
    workers: int | Span | None = None  # None: as many as CPUs this process may use
    threads: int = 8
    preload: Preload = "auto"
    chdir: str | None = None
    python: str | None = None  # None: the one that runs the master
    env: dict[str, str] = {}
    ready_path: str | None = None
    boot_timeout: float = 60.0
    drain_timeout: float = 30.0
    idle_linger: float = 1.0
    keepalive: float = 75.0
    max_memory: int | MemoryShare | None = None
    max_requests: int | None = None
    max_age: float | None = None
    max_inflight: int = 1000
    grow_after: float = 5.0
    shrink_after: float = 60.0
    stall_warn: float = 0.5  # 0: never, as the next two
    stall_timeout: float = 30.0
    request_warn: float = 10.0
    max_restarts: int = 5  # within a minute
    max_connections: int = 16384
    lag_limit: float = 0.25  # 0: none
    queue_timeout: float = 1.0  # 0: none
    exempt_paths: tuple[str, ...] = ()
    limit_request_line: int = 8 * 1024
    limit_request_head: int = MAX_REQUEST_HEAD
    limit_request_fields: int = MAX_REQUEST_FIELDS
    max_body: int | None = None
    first_byte_timeout: float = 60.0
    head_timeout: float = 15.0
    body_timeout: float = 30.0
    send_timeout: float = 60.0
    keepalive_requests: int | None = None
    ws_max_size: int = 16 * 1024**2
    ws_ping_interval: float = 20.0  # 0: no pings
    ws_ping_timeout: float = 20.0
    ws_deflate: bool = True
    surge: int = 1
    bake: float = 2.0
    canary_share: float | None = None  # of all requests; None: an even one
    keep_previous: bool = True
    before_roll: Hook | None = None
    after_commit: Hook | None = None
    after_rollback: Hook | None = None
    hook_timeout: float = 300.0
    before_fork: str | None = None
    after_fork: str | None = None
    on_worker_start: str | None = None
    on_worker_exit: str | None = None
    user: str | None = None  # None: who the master is
    group: str | None = None
    no_new_privs: bool = True
    umask: int | None = None  # None: the master's
    oom_score_adj: int = 100  # above the master's
    env_file: str | None = None
    credentials: dict[str, str] = {}  # names of credentials by names of variables
    access_log: str | None = None
    access_log_format: str = "auto"  # combined or json, as log_format says; or one of these; or a format with atoms


class ControlGroup(msgspec.Struct, frozen=True):
    """A group, by name or number, whose members may use the control socket: to read, or for everything."""

    name: str
    may_command: bool = False


class SupervisorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The `[supervisor]` table."""

    control: str | None = None  # None: a path in the runtime directory
    control_group: ControlGroup | None = None  # None: only our own user and root
    stop_delay: float = 0.0
    pidfile: str | None = None
    crash_dir: str | None = None  # None: systemd's state directory, or beside the control socket
    orphan_grace: float = 60.0  # 0: workers of a master that was killed leave at once
    log_format: LogFormat = "text"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was read: at least one app, names unique."""

    apps: tuple[AppSettings, ...]
    supervisor: SupervisorSettings = SupervisorSettings()
