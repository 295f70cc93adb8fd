"""holdfast: a clustered process supervisor for Python web apps, with zero-downtime reloads.

Invariant: importing this package imports nothing else, because master, spawner and every worker pay for what stands
here. `App` and `Supervisor`, for embedding, are imported when they are first asked for (PEP 562).
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["App", "Supervisor", "__version__"]

TYPE_CHECKING = False  # type checkers know the name; importing typing for it would cost every process
if TYPE_CHECKING:
    from supervisor.embed import App, Supervisor
else:

    def __getattr__(name: str) -> object:
        if name in ("App", "Supervisor"):
            from supervisor import embed

            return getattr(embed, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
