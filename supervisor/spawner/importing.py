"""From a target such as `shop.web:app` to a callable and the protocol it speaks.

Invariant: whatever the app's import does (raise, exit, print) ends in a `LoadedApp` or an `AppError`; in the latter
case the app's own traceback, without our frames, has gone to stderr first.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from supervisor.config.settings import AppSettings, Interface
from supervisor.errors import AppError
from supervisor.worker.hooks import WorkerHooks


@dataclass(frozen=True, slots=True)
class LoadedApp:
    """An imported app, ready to be called. `threads` names those its import left running."""

    app: object
    interface: Interface
    threads: tuple[str, ...]
    seconds: float


def prepare(settings: AppSettings, home: str) -> None:
    """Make this process look as the app expects: directory, environment, import path. Raises `AppError`."""
    enter(home)
    os.environ.update(settings.env)


def enter(home: str) -> None:
    """Make this the working directory, and the first to import from. Raises `AppError`."""
    try:
        os.chdir(home)
    except OSError as error:
        raise AppError(f"chdir {home}: {error.strerror}") from None
    sys.path.insert(0, os.getcwd())


def load_app(settings: AppSettings) -> LoadedApp:
    """Import the target, call it if it is a factory, tell ASGI from WSGI. Raises `AppError`."""
    began = time.monotonic()
    app = _load(settings.app)
    interface = settings.interface or tell_interface(app, settings.app)
    return LoadedApp(app, interface, other_threads(), time.monotonic() - began)


def load_function(target: str) -> Callable[..., object]:
    """Import `module:function`, which must not be a coroutine function. Raises `AppError`."""
    found = _load(target)
    assert callable(found)
    if inspect.iscoroutinefunction(found):
        raise AppError(f"{target} is a coroutine function; a plain function is called here")
    return found


def load_hooks(settings: AppSettings) -> WorkerHooks:
    """Import what is called in the life of each worker. Raises `AppError`."""
    targets = {name: getattr(settings, name) for name in WorkerHooks.__slots__}
    return WorkerHooks(**{name: load_function(target) for name, target in targets.items() if target is not None})


def _load(target: str) -> object:
    try:
        return _find(target)
    except AppError:
        raise
    except SystemExit as error:
        print_traceback(error)
        raise AppError(f"{target} called exit({error.code!r}) while it was imported") from None
    except BaseException as error:
        print_traceback(error)
        raise AppError(f"can't import {target}: {_one_line(error)}") from None


def _find(target: str) -> object:
    module_name, _, attribute = target.partition(":")
    is_factory = attribute.endswith("()")
    module = importlib.import_module(module_name)
    found: object = module
    for name in attribute.removesuffix("()").split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise AppError(f"{target}: module {module_name} ({module.__file__}) has no {name!r}") from None
    if not callable(found):
        raise AppError(f"{target} is {type(found).__name__}, not callable")
    return found() if is_factory else found


def tell_interface(app: object, target: str) -> Interface:
    """ASGI 3 takes `(scope, receive, send)` and is awaited; WSGI takes `(environ, start_response)`."""
    if not callable(app):
        raise AppError(f"{target} gave {type(app).__name__}, not a callable app")
    plain: object = app
    while isinstance(plain, functools.partial):
        plain = plain.func
    call = plain if inspect.isroutine(plain) else type(plain).__call__
    if inspect.iscoroutinefunction(inspect.unwrap(call)):
        return "asgi"
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        signature = None
    for count, interface in ((3, "asgi"), (2, "wsgi")):
        if signature is not None and _accepts_exactly(signature, count):
            return "asgi" if interface == "asgi" else "wsgi"
    raise AppError(f"{target}: can't tell whether it is ASGI or WSGI; say so with --interface asgi or --interface wsgi")


def _accepts_exactly(signature: inspect.Signature, count: int) -> bool:
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
        return False
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def other_threads() -> tuple[str, ...]:
    """Names of all threads of this process but the main one; the kernel's list, so threads of C code count too."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    others = (task for task in os.listdir("/proc/self/task") if int(task) != os.getpid())
    return tuple(sorted(names.get(int(task)) or _kernel_name(task) for task in others))


def _kernel_name(task: str) -> str:
    try:
        with open(f"/proc/self/task/{task}/comm") as file:
            return file.read().strip()
    except OSError:
        return f"thread {task}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    where = _where(error)
    return f"{type(error).__name__}: {text}{f' ({where})' if where else ''}"


def _where(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    last = _frames_of_app(error.__traceback__)
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}" if last is not None else ""


def _frames_of_app(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is neither ours nor the import machinery's."""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name != __file__ and name != importlib.__file__ and not name.startswith("<frozen importlib"):
            return trace
        trace = trace.tb_next
    return None


def print_traceback(error: BaseException) -> None:
    """To stderr, without our own frames."""
    error.__traceback__ = _frames_of_app(error.__traceback__)
    traceback.print_exception(error)
    sys.stderr.flush()
