"""`python -m supervisor.master FD`: what `holdfast run` becomes by exec.

Invariant: a master of any version starts the one that is installed by `--preflight FD`, and becomes it by
`--resume FD`. FD holds its state (`record.py`).
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the master whose source, or whose state, lies in the descriptor named by the last argument."""
    # msgspec then finds in typing what it would take from there; with inspect and all that needs it is 1.3 MB.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    from supervisor.errors import HoldfastError, UserError
    from supervisor.master.boot import preflight, resume, resume_upgraded

    try:
        if sys.argv[1] == "--preflight":
            return preflight(int(sys.argv[2]))
        if sys.argv[1] == "--resume":
            return resume_upgraded(int(sys.argv[2]))
        return resume(int(sys.argv[1]))
    except UserError as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return error.exit_code
    except (HoldfastError, IndexError, ValueError) as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
