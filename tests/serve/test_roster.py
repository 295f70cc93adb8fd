"""A worker that stays gives some of its connections to another, and goes on serving the rest."""

from __future__ import annotations

import contextlib

from supervisor.kernel.board import Cell
from tests.serve.harness import Harness, answer, eventually, http, read_until
from tests.serve.test_handover import GET, Place, ask, move


def test_a_worker_that_lends_gives_so_many_and_goes_on_serving_the_others() -> None:
    with move() as way, contextlib.ExitStack() as opened:
        clients = [opened.enter_context(way.old.connect()) for _ in range(4)]
        for client in clients:
            ask(client)
        way.old.call(lambda: way.old.service.roster.lend(way.outlet, 3))
        for _ in range(3):
            way.take_one()
        assert sorted(ask(client).split()[-2] for client in clients) == [b"new", b"new", b"new", b"old"]
        assert way.take() is None
        assert not way.old.service.roster.dismisses_idle, "who becomes idle from now on stays"
        assert way.old.cell(Cell.HANDED_OVER) == 3
        assert way.old.empties == 0


def test_a_busy_connection_is_lent_once_its_answer_is_out() -> None:
    app = Place("old")
    with move(app) as way, way.old.connect() as client:
        client.sendall(GET.replace(b"/ ", b"/wait "))
        eventually(lambda: way.old.service.inflight == 1)
        way.old.call(lambda: way.old.service.roster.lend(way.outlet, 1))
        assert way.take() is None
        app.release.set()
        read_until(client, b"old /wait\n")
        way.take_one()
        assert ask(client).endswith(b"new /\n")


def test_lending_that_is_called_off_gives_nothing_more() -> None:
    with move() as way, way.old.connect() as client:
        ask(client)

        def lend_and_call_off() -> None:
            way.old.service.roster.lend(way.outlet, 1)
            way.old.service.roster.lend(None, 0)

        way.old.call(lend_and_call_off)
        assert ask(client).endswith(b"old /\n")
        assert way.take() is None
        assert not way.old.service.roster.dismisses_idle


def test_a_lender_that_has_to_leave_drains_as_if_it_had_never_lent() -> None:
    with move() as way, way.old.connect() as client, way.old.connect() as other:
        ask(client)
        ask(other)
        way.old.call(lambda: way.old.service.roster.lend(way.outlet, 1))
        way.take_one()
        way.old.call(lambda: way.old.service.drain(0.1))
        eventually(lambda: way.old.empties == 1)


def test_errors_are_told_one_by_one_while_somebody_wants_to_hear_of_them() -> None:
    heard: list[int] = []

    @http
    async def app(scope: dict[str, object], receive: object, send: object) -> None:
        await answer(send, status=int(str(scope["path"])[1:]))

    with Harness(app) as server, server.connect() as client:

        def hear() -> None:
            heard.append(server.cell(Cell.ANSWERS_5XX))

        for path, expected in (("/500", 0), ("/200", 0), ("/503", 1), ("/404", 1), ("/500", 2)):
            client.sendall(GET.replace(b"/ ", path.encode() + b" ", 1))
            read_until(client, b"ok")
            server.call(lambda: server.service.watch_errors(hear))
            assert len(heard) == expected, path
        assert heard == [2, 3], "the board was written before"
