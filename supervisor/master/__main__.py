"""`python -m supervisor.master FD`: what `holdfast run` becomes by exec."""

from __future__ import annotations

import sys

from supervisor.errors import HoldfastError, UserError
from supervisor.master.boot import resume


def main() -> int:
    """Run the master whose source lies in the descriptor named by the only argument."""
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
