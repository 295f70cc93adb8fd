from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.kernel.reactor import Pace, Reactor, Timer
from tests.kernel.conftest import Until


def fill(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.write(fd, bytes(65536)):
            pass


def test_timers_run_in_the_order_of_their_times(reactor: Reactor) -> None:
    ran: list[str] = []
    now = reactor.now()
    reactor.call_at(now + 0.03, reactor.stop)
    reactor.call_at(now + 0.02, lambda: ran.append("second"))
    reactor.call_at(now + 0.01, lambda: ran.append("first"))
    reactor.call_at(now - 5, lambda: ran.append("overdue"))
    reactor.run()
    assert ran == ["overdue", "first", "second"]
    assert reactor.now() >= now + 0.03


def test_timers_of_the_same_time_run_in_the_order_they_were_made(reactor: Reactor) -> None:
    ran: list[int] = []
    when = reactor.now() + 0.005
    for i in range(20):
        reactor.call_at(when, lambda i=i: ran.append(i))  # type: ignore[misc]
    reactor.call_at(when, reactor.stop)
    reactor.run()
    assert ran == list(range(20))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(offsets=st.lists(st.integers(-20, 20)), cancelled=st.sets(st.integers(0, 30)))
def test_whatever_is_cancelled_never_runs_and_the_rest_runs_in_order(
    reactor: Reactor, offsets: list[int], cancelled: set[int]
) -> None:
    ran: list[tuple[int, int]] = []
    now = reactor.now()
    timers = [
        reactor.call_at(now + offset / 10_000, lambda key=(offset, i): ran.append(key))  # type: ignore[misc]
        for i, offset in enumerate(offsets)
    ]
    for i in cancelled & set(range(len(timers))):
        timers[i].cancel()
        timers[i].cancel()
    reactor.call_at(now + 0.0021, reactor.stop)
    reactor.run()
    assert ran == sorted((offset, i) for i, offset in enumerate(offsets) if i not in cancelled)


def test_a_timer_cancelled_by_one_that_is_due_with_it_does_not_run(reactor: Reactor) -> None:
    ran: list[str] = []
    when = reactor.now()
    victims: list[Timer] = []
    reactor.call_at(when, lambda: victims[0].cancel())
    victims.append(reactor.call_at(when, lambda: ran.append("cancelled")))
    reactor.call_at(when, reactor.stop)
    reactor.run()
    assert ran == []


def test_a_cancelled_timer_does_not_wake_the_loop(reactor: Reactor) -> None:
    reactor.call_later(0.0, lambda: None).cancel()
    started = time.process_time()
    reactor.call_later(0.1, reactor.stop)
    reactor.run()
    assert time.process_time() - started < 0.05


def test_a_reader_is_called_when_bytes_wait_and_at_the_end(reactor: Reactor, until: Until) -> None:
    read_end, write_end = os.pipe()
    seen: list[bytes] = []

    def read() -> None:
        seen.append(os.read(read_end, 100))
        if not seen[-1]:
            reactor.remove_reader(read_end)

    reactor.add_reader(read_end, read)
    os.write(write_end, b"hello")
    until(lambda: seen == [b"hello"])
    os.close(write_end)
    until(lambda: seen == [b"hello", b""])
    os.close(read_end)


def test_a_writer_is_called_when_there_is_room_and_when_the_reader_is_gone(reactor: Reactor, until: Until) -> None:
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    fill(write_end)
    calls: list[str] = []
    reactor.add_writer(write_end, lambda: calls.append("writable"))
    reactor.call_later(0.02, reactor.stop)
    reactor.run()
    assert calls == []
    os.read(read_end, 1 << 20)
    until(lambda: calls)
    reactor.remove_writer(write_end)
    fill(write_end)
    calls.clear()
    reactor.add_writer(write_end, lambda: calls.append("broken"))
    os.close(read_end)
    until(lambda: calls)
    reactor.remove_writer(write_end)
    os.close(write_end)


def test_one_descriptor_may_have_a_reader_and_a_writer(reactor: Reactor, until: Until) -> None:
    left, right = socket.socketpair()
    calls: list[str] = []
    reactor.add_reader(left.fileno(), lambda: calls.append(f"read {left.recv(10)!r}"))

    def write() -> None:
        calls.append("write")
        reactor.remove_writer(left.fileno())

    reactor.add_writer(left.fileno(), write)
    until(lambda: calls == ["write"])
    right.send(b"x")
    until(lambda: calls == ["write", "read b'x'"])
    reactor.remove_reader(left.fileno())
    left.close()
    right.close()


def test_a_new_callback_replaces_the_old_one(reactor: Reactor, until: Until) -> None:
    left, right = socket.socketpair()
    calls: list[str] = []
    reactor.add_reader(left.fileno(), lambda: calls.append("old"))
    reactor.add_reader(left.fileno(), lambda: calls.append(left.recv(1).decode()))
    right.send(b"n")
    until(lambda: calls)
    assert calls == ["n"]
    reactor.remove_reader(left.fileno())
    left.close()
    right.close()


def test_a_reader_removed_in_the_same_turn_is_not_called(reactor: Reactor, until: Until) -> None:
    pairs = [socket.socketpair(), socket.socketpair()]
    calls: list[int] = []

    def first_wins(mine: int) -> None:
        calls.append(mine)
        for left, _right in pairs:
            reactor.remove_reader(left.fileno())

    for i, (left, right) in enumerate(pairs):
        reactor.add_reader(left.fileno(), lambda i=i: first_wins(i))  # type: ignore[misc]
        right.send(b"x")
    until(lambda: calls)
    reactor.call_later(0.01, reactor.stop)
    reactor.run()
    assert len(calls) == 1
    for left, right in pairs:
        left.close()
        right.close()


def test_removing_what_is_not_watched_or_already_closed_does_no_harm(reactor: Reactor) -> None:
    reactor.remove_reader(12345)
    reactor.remove_writer(12345)
    read_end, write_end = os.pipe()
    reactor.add_reader(read_end, lambda: None)
    os.close(read_end)
    reactor.remove_reader(read_end)
    os.close(write_end)


def test_an_error_in_a_callback_is_reported_and_the_rest_goes_on(reactor: Reactor, errors: list[Exception]) -> None:
    ran: list[str] = []
    trouble = RuntimeError("oh")

    def fail() -> None:
        raise trouble

    reactor.call_later(0, fail)
    reactor.call_later(0.001, lambda: ran.append("later"))
    reactor.call_later(0.002, reactor.stop)
    reactor.run()
    assert ran == ["later"]
    assert errors == [trouble]
    errors.clear()


def test_a_descriptor_that_is_always_ready_does_not_starve_timers(reactor: Reactor) -> None:
    fd = os.eventfd(1)
    turns: list[None] = []
    reactor.add_reader(fd, lambda: turns.append(None))
    reactor.call_later(0.05, reactor.stop)
    started = time.monotonic()
    reactor.run()
    assert time.monotonic() - started < 5
    assert len(turns) > 10
    reactor.remove_reader(fd)
    os.close(fd)


def test_a_signal_is_handled_on_the_loop_and_not_inside_other_code(reactor: Reactor, until: Until) -> None:
    calls: list[str] = []
    reactor.on_signal(signal.SIGUSR1, lambda: calls.append("usr1"))
    os.kill(os.getpid(), signal.SIGUSR1)
    assert calls == []
    until(lambda: calls == ["usr1"])


def test_deliveries_before_a_turn_merge_and_different_signals_do_not(reactor: Reactor, until: Until) -> None:
    calls: list[str] = []
    reactor.on_signal(signal.SIGUSR1, lambda: calls.append("usr1"))
    reactor.on_signal(signal.SIGUSR2, lambda: calls.append("usr2"))
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    until(lambda: len(calls) >= 2)
    reactor.call_later(0.01, reactor.stop)
    reactor.run()
    assert calls == ["usr1", "usr2"]


def test_a_flood_of_signals_overflows_nothing(reactor: Reactor, until: Until) -> None:
    calls: list[str] = []
    reactor.on_signal(signal.SIGUSR1, lambda: calls.append("usr1"))
    for _ in range(70_000):  # more than the wake-up pipe holds
        signal.raise_signal(signal.SIGUSR1)
    until(lambda: calls)


def test_a_signal_ends_the_waiting_at_once(reactor: Reactor) -> None:
    reactor.on_signal(signal.SIGUSR1, reactor.stop)
    reactor.call_later(30, reactor.stop)
    started = time.monotonic()
    sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    sender.start()
    reactor.run()
    assert time.monotonic() - started < 10
    sender.join()


def test_closing_restores_the_handlers_that_were_there_before() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    reactor = Reactor(lambda error: None)
    reactor.on_signal(signal.SIGUSR1, lambda: None)
    reactor.on_signal(signal.SIGUSR1, lambda: None)
    assert signal.getsignal(signal.SIGUSR1) is not before
    reactor.close()
    assert signal.getsignal(signal.SIGUSR1) is before


def test_closing_leaves_no_descriptor_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    reactor = Reactor(lambda error: None)
    reactor.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_stop_lets_the_callbacks_of_the_turn_finish(reactor: Reactor) -> None:
    ran: list[str] = []
    when = reactor.now()
    reactor.call_at(when, reactor.stop)
    reactor.call_at(when, lambda: ran.append("same turn"))
    reactor.run()
    assert ran == ["same turn"]


def test_cancelled_timers_do_not_pile_up(reactor: Reactor) -> None:
    kept = [reactor.call_later(3600 + number, reactor.stop) for number in range(10)]
    for _ in range(10_000):
        reactor.call_later(60, reactor.stop).cancel()
    assert len(reactor._timers) < 200
    assert all(timer.callback is not None for timer in kept)
    assert {id(timer) for _when, _number, timer in reactor._timers} >= {id(timer) for timer in kept}


def test_the_longest_turn_of_the_last_minute_is_known(reactor: Reactor) -> None:
    reactor.call_later(0, lambda: time.sleep(0.05))
    reactor.call_later(0.01, reactor.stop)
    reactor.run()
    assert reactor.pace.longest >= 0.05
    assert reactor.pace.busiest < 0.04, "it slept"


def test_the_cpu_time_of_the_busiest_turn_is_its_own(reactor: Reactor) -> None:
    def spin() -> None:
        ends = time.thread_time() + 0.05
        while time.thread_time() < ends:
            pass

    spin()
    reactor.call_later(0, spin)
    reactor.call_later(0.01, reactor.stop)
    reactor.run()
    assert 0.05 <= reactor.pace.busiest < 0.09


def test_what_is_more_than_a_minute_ago_is_forgotten() -> None:
    pace = Pace(0.0)
    pace.turned(5.0, 6.0, 0.004)
    pace.turned(6.0, 6.5, 0.4)
    pace.turned(20.0, 20.25, 0.2)
    assert (pace.longest, pace.busiest) == (1.0, 0.4)
    for second in range(20, 75):
        pace.turned(second, second + 0.01, 0.001)
    assert (pace.longest, pace.busiest) == (0.25, 0.2)
    for second in range(75, 140):
        pace.turned(second, second + 0.01, 0.001)
    assert pace.longest < 0.02
    assert pace.busiest == 0.001
