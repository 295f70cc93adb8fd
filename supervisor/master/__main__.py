"""`python -m supervisor.master FD`: what `holdfast run` becomes by exec."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the master whose source lies in the descriptor named by the only argument."""
    # msgspec then finds in typing what it would take from there; with inspect and all that needs it is 1.3 MB.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    from supervisor.errors import HoldfastError, UserError
    from supervisor.master.boot import resume

    try:
        return resume(int(sys.argv[1]))
    except UserError as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return error.exit_code
    except (HoldfastError, IndexError, ValueError) as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
