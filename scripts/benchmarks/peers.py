"""The servers under comparison: how each is installed, and started as its own guide to production advises."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.environment import ROOT, Environment, UnavailableError

GO_SOURCE = Path(__file__).with_name("reference.go")
NGINX_CONF = """
daemon off;
worker_processes {workers};
pid {home}/nginx.pid;
error_log stderr error;
events {{ worker_connections 16384; multi_accept on; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    default_type text/plain;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
    server {{ listen 127.0.0.1:{port} backlog=2048; location / {{ return 200 "Hello, World!"; }} }}
}}
"""


@dataclass(frozen=True)
class Launch:
    """What to serve, and where. `home` is an empty folder for whatever the server writes."""

    app: str
    port: int
    home: Path
    workers: int = 1
    threads: int = 8

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


Command = Callable[[Environment, Launch], list[str]]


@dataclass(frozen=True)
class Peer:
    """One server. `alternatives` are pip requirements, the best first; a `reference` gives a fixed answer, no app's."""

    name: str
    command: Command
    alternatives: tuple[tuple[str, ...], ...] = ()
    distribution: str = ""
    reference: bool = False


def command_of_holdfast(environment: Environment, launch: Launch) -> list[str]:
    """holdfast as it comes."""
    command = [str(environment.bin / "holdfast"), "run", launch.app, "--bind", launch.address]
    command += ["--workers", str(launch.workers), "--threads", str(launch.threads)]
    return [*command, "--control", str(launch.home / "control")]


def _holdfast_logging(form: str) -> Command:
    def command(environment: Environment, launch: Launch) -> list[str]:
        options = ["--access-log", str(launch.home / "access"), "--access-log-format", form]
        return [*command_of_holdfast(environment, launch), *options]

    return command


def _gunicorn(environment: Environment, launch: Launch, *options: str) -> list[str]:
    command = [str(environment.bin / "gunicorn"), launch.app, "--bind", launch.address, "--log-level", "warning"]
    return [*command, "--workers", str(launch.workers), *options]


def _gunicorn_asgi(environment: Environment, launch: Launch) -> list[str]:
    if environment.has_module("gunicorn.workers.gasgi"):
        return _gunicorn(environment, launch, "--worker-class", "asgi")
    environment.install("uvicorn-worker", (("uvicorn-worker", "uvicorn[standard]"),))
    return _gunicorn(environment, launch, "--worker-class", "uvicorn_worker.UvicornWorker")


def _gunicorn_preload(environment: Environment, launch: Launch) -> list[str]:
    return [*_gunicorn_asgi(environment, launch), "--preload"]


def _gunicorn_sync(environment: Environment, launch: Launch) -> list[str]:
    return _gunicorn(environment, launch, "--worker-class", "sync")


def _gunicorn_gthread(environment: Environment, launch: Launch) -> list[str]:
    return _gunicorn(environment, launch, "--worker-class", "gthread", "--threads", str(launch.threads))


def _uvicorn(environment: Environment, launch: Launch, *options: str) -> list[str]:
    command = [str(environment.bin / "uvicorn"), launch.app, "--port", str(launch.port), "--log-level", "warning"]
    command += ["--no-access-log", "--loop", "uvloop", "--http", "httptools"]
    return [*command, "--workers", str(launch.workers), *options]


def _uvicorn_logging(environment: Environment, launch: Launch) -> list[str]:
    command = _uvicorn(environment, launch, "--log-level", "info")
    command.remove("--no-access-log")
    return command


def _granian_logging(environment: Environment, launch: Launch) -> list[str]:
    command = _granian_asgi(environment, launch)
    return ["--access-log" if word == "--no-access-log" else "info" if word == "warning" else word for word in command]


def _gunicorn_logging(environment: Environment, launch: Launch) -> list[str]:
    return [*_gunicorn_asgi(environment, launch), "--access-logfile", str(launch.home / "access")]


def _uvicorn_websockets(environment: Environment, launch: Launch) -> list[str]:
    return _uvicorn(environment, launch, "--ws", "websockets")


def _uvicorn_sansio(environment: Environment, launch: Launch) -> list[str]:
    return _uvicorn(environment, launch, "--ws", "websockets-sansio")


def _granian(environment: Environment, launch: Launch, *options: str) -> list[str]:
    command = [str(environment.bin / "granian"), launch.app, "--port", str(launch.port), "--log-level", "warning"]
    return [*command, "--no-access-log", "--workers", str(launch.workers), *options]


def _granian_asgi(environment: Environment, launch: Launch) -> list[str]:
    # Without WebSockets it is at its fastest.
    return _granian(environment, launch, "--interface", "asgi", "--loop", "uvloop", "--no-ws")


def _granian_websocket(environment: Environment, launch: Launch) -> list[str]:
    return _granian(environment, launch, "--interface", "asgi", "--loop", "uvloop", "--ws")


def _granian_wsgi(environment: Environment, launch: Launch) -> list[str]:
    return _granian(environment, launch, "--interface", "wsgi", "--no-ws", "--blocking-threads", str(launch.threads))


def _hypercorn(environment: Environment, launch: Launch, *options: str) -> list[str]:
    command = [str(environment.bin / "hypercorn"), launch.app, "--bind", launch.address, "--log-level", "warning"]
    return [*command, "--worker-class", "uvloop", "--workers", str(launch.workers), *options]


def _patient(command: Callable[..., list[str]], *options: str) -> Command:
    """The same server, told to keep as many idle connections for as long as holdfast does by itself."""
    return lambda environment, launch: [*command(environment, launch), *options]


def _nginx(_: Environment, launch: Launch) -> list[str]:
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is None:
        raise UnavailableError("not installed (apt install nginx)")
    configuration = launch.home / "nginx.conf"
    configuration.write_text(NGINX_CONF.format(home=launch.home, port=launch.port, workers=launch.workers))
    return [nginx, "-p", str(launch.home), "-e", "stderr", "-c", str(configuration)]


def _go(environment: Environment, launch: Launch) -> list[str]:
    return ["env", f"GOMAXPROCS={launch.workers}", str(environment.go_program(GO_SOURCE)), launch.address]


_GUNICORN = (("gunicorn[fast]", "uvloop"), ("gunicorn", "uvloop"))
_GRANIAN = (("granian[uvloop]",),)
_UVICORN = (("uvicorn", "uvloop", "httptools", "websockets"),)

HOLDFAST = Peer("holdfast", command_of_holdfast, (("-e", str(ROOT)),), "holdfast")
GUNICORN_ASGI = Peer("gunicorn asgi", _gunicorn_asgi, _GUNICORN, "gunicorn")
GUNICORN_PRELOAD = Peer("gunicorn asgi preload", _gunicorn_preload, _GUNICORN, "gunicorn")
GUNICORN_SYNC = Peer("gunicorn sync", _gunicorn_sync, _GUNICORN, "gunicorn")
GUNICORN_GTHREAD = Peer("gunicorn gthread", _gunicorn_gthread, _GUNICORN, "gunicorn")
UVICORN = Peer("uvicorn", _uvicorn, (("uvicorn", "uvloop", "httptools"),), "uvicorn")
UVICORN_WEBSOCKETS = Peer("uvicorn websockets", _uvicorn_websockets, _UVICORN, "uvicorn")
UVICORN_SANSIO = Peer("uvicorn websockets-sansio", _uvicorn_sansio, _UVICORN, "uvicorn")
GRANIAN_ASGI = Peer("granian", _granian_asgi, _GRANIAN, "granian")
GRANIAN_WEBSOCKET = Peer("granian", _granian_websocket, _GRANIAN, "granian")
GRANIAN_WSGI = Peer("granian wsgi", _granian_wsgi, _GRANIAN, "granian")
HOLDFAST_COMBINED = Peer("holdfast, combined log", _holdfast_logging("combined"), HOLDFAST.alternatives, "holdfast")
HOLDFAST_JSON = Peer("holdfast, json log", _holdfast_logging("json"), HOLDFAST.alternatives, "holdfast")
GUNICORN_LOGGING = Peer("gunicorn asgi, log", _gunicorn_logging, _GUNICORN, "gunicorn")
UVICORN_LOGGING = Peer("uvicorn, log", _uvicorn_logging, UVICORN.alternatives, "uvicorn")
GRANIAN_LOGGING = Peer("granian, log", _granian_logging, _GRANIAN, "granian")
HYPERCORN = Peer("hypercorn", _hypercorn, (("hypercorn", "uvloop"),), "hypercorn")
NGINX = Peer("nginx", _nginx, reference=True)
GO = Peer("go net/http", _go, reference=True)

ASGI = (HOLDFAST, GUNICORN_ASGI, UVICORN, GRANIAN_ASGI, HYPERCORN)
LOGGING = (HOLDFAST_COMBINED, HOLDFAST_JSON, HOLDFAST, GUNICORN_LOGGING, UVICORN_LOGGING, GRANIAN_LOGGING)
WEBSOCKET = (HOLDFAST, UVICORN_WEBSOCKETS, UVICORN_SANSIO, GRANIAN_WEBSOCKET)
WSGI = (HOLDFAST, GUNICORN_SYNC, GUNICORN_GTHREAD, GRANIAN_WSGI)
MEMORY = (HOLDFAST, GUNICORN_ASGI, GUNICORN_PRELOAD, UVICORN, GRANIAN_ASGI, HYPERCORN)
FIXED = (NGINX, GO)
CROWD = (
    HOLDFAST,
    replace(GUNICORN_ASGI, command=_patient(_gunicorn_asgi, "--keep-alive", "75", "--worker-connections", "16384")),
    replace(UVICORN, command=_patient(_uvicorn, "--timeout-keep-alive", "75")),
    replace(GRANIAN_ASGI, command=_patient(_granian_asgi, "--backpressure", "16384")),
    replace(HYPERCORN, command=_patient(_hypercorn, "--keep-alive", "75")),
    *FIXED,
)
