"""The ledger of the master's processes, with real ones."""

from __future__ import annotations

import os

from supervisor.kernel.process import Ended
from supervisor.kernel.reactor import Reactor
from supervisor.master.children import Children


def test_it_is_not_empty_while_a_fork_is_on_its_way() -> None:
    errors: list[Exception] = []
    reactor = Reactor(errors.append)
    try:
        children, ended, told = Children(reactor), list[Ended](), list[str]()
        children.on_empty = lambda: told.append("empty")
        assert children.is_empty()
        children.fork_begins()

        def end(how: Ended) -> None:
            ended.append(how)
            reactor.stop()

        children.watch(os.posix_spawn("/bin/true", ["true"], {}), end)
        reactor.run()
        assert [each.code for each in ended] == [0]
        assert not children.is_empty(), "its worker may be about to say its first word"
        assert told == []
        children.fork_is_known()
        assert children.is_empty()
        assert told == ["empty"]
        assert errors == []
    finally:
        reactor.close()
