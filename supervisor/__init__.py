"""holdfast: a clustered process supervisor for Python web apps, with zero-downtime reloads.

Invariant: importing this package imports nothing else, because master, spawner and every worker pay for what stands
here. `App` and `Supervisor`, for embedding, are imported when they are first asked for (PEP 562).
"""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take for typing.TYPE_CHECKING, without importing typing
if TYPE_CHECKING:
    from supervisor.embed import App, Supervisor

__version__ = "0.1.0"
__all__ = ["App", "Supervisor", "__version__"]


def __getattr__(name: str) -> object:
    if name in ("App", "Supervisor"):
        from supervisor import embed

        return getattr(embed, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
