"""Stacks read, and shown to people."""

from __future__ import annotations

import faulthandler
import tempfile
import threading

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from supervisor.kernel.source import Sources
from supervisor.messages.stacks import Frame, Picture, Serving, Stacks, TaskStack, ThreadStack, WorkerStacks
from supervisor.observe.flight import Flight
from supervisor.observe.flight import Serving as OnRecord
from supervisor.observe.stacks import (
    MAX_LINES,
    event_lines,
    fatal_error,
    own_frame,
    parse_answer,
    parse_dump,
    parse_picture,
    stacks_text,
    where,
    with_picture,
    with_requests,
    with_sources,
)

LOOP = ThreadStack(name="MainThread", runs_loop=True, frames=(Frame("/srv/shop/app.py", 3, "nap", "time.sleep(9)"),))


def dumped() -> str:
    """What faulthandler says of this process, with another thread in it."""
    go = threading.Event()
    other = threading.Thread(target=go.wait)
    other.start()
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        text = file.read()
    go.set()
    other.join()
    return text


def test_what_faulthandler_writes_is_read_the_thread_that_was_asked_first() -> None:
    text = dumped()
    threads = parse_dump(text)
    assert len(threads) == text.count("(most recent call first)") >= 2
    assert [thread.runs_loop for thread in threads] == [True] + [False] * (len(threads) - 1)
    assert threads[0].frames[-1].function == "dumped"
    assert threads[0].frames[-1].file == __file__
    assert all(thread.name.startswith("0x") for thread in threads[1:])
    assert any(thread.frames[-1].function == "wait" for thread in threads[1:])


def test_lines_of_source_are_added_where_they_are_missing() -> None:
    stacks = with_sources(Stacks(how="native", threads=parse_dump(dumped())), Sources())
    assert stacks.threads[0].frames[-1].source == "faulthandler.dump_traceback(file)"


@given(st.text(alphabet='Cu rent hdTF0x1a"(mosclfi):,\n', max_size=300) | st.text(max_size=100))
def test_nonsense_and_what_was_cut_off_is_no_error(text: str) -> None:
    parse_dump(text)
    fatal_error(text)
    assert parse_answer(text.encode("utf-8", "replace")) is None
    whole = dumped_once()
    parse_dump(whole[: len(text) * 3])


def dumped_once(known: list[str] = []) -> str:  # noqa: B006  # kept on purpose
    if not known:
        known.append(dumped())
    return known[0]


def test_the_fatal_error_has_its_name() -> None:
    assert fatal_error("x\nFatal Python error: Segmentation fault\n\nCurrent") == "Segmentation fault"
    assert fatal_error("Current thread") == ""


def test_only_a_whole_answer_counts() -> None:
    answer = Stacks(how="loop", threads=(LOOP,), tasks=())
    data = msgspec.json.encode(answer) + b"\n"
    assert parse_answer(data) == answer
    assert parse_answer(b'Current thread 0x1 (most recent call first):\n  File "a", line 1 in b\n' + data) == answer
    assert all(parse_answer(data[:size]) is None for size in range(len(data) - 1))


def test_the_app_s_own_line_is_the_innermost_of_its_directory() -> None:
    def frames(*files: str) -> tuple[Frame, ...]:
        return tuple(Frame(file, 1, "f") for file in files)

    library, stdlib = "/srv/shop/.venv/lib/python3.11/site-packages/x.py", "/usr/lib/python3.11/json/decoder.py"
    found = own_frame(frames("/srv/shop/app.py", "/srv/shop/cart.py", library, stdlib), "/srv/shop")
    assert found == Frame("/srv/shop/cart.py", 1, "f")
    found = own_frame(frames("/srv/shop/app.py", "/srv/common/money.py", library), "/srv/shop")
    assert found == Frame("/srv/shop/app.py", 1, "f")
    assert own_frame(frames("/srv/common/money.py", library), "/srv/shop") == Frame("/srv/common/money.py", 1, "f")
    assert own_frame(frames(library, stdlib, "<frozen runpy>"), "/srv/shop") is None
    assert own_frame(frames("/opt/lib/python3/shop/a.py"), "/opt/lib/python3/shop") is not None
    assert own_frame((), "/srv/shop") is None


def test_a_frame_is_named_from_the_app_s_directory() -> None:
    assert where(LOOP.frames[0], "/srv/shop") == "app.py:3 in nap: time.sleep(9)"
    assert where(Frame("/x.py", 1, "f")) == "/x.py:1 in f"


def test_an_event_shows_the_loop_first_and_no_idle_thread_and_has_an_end() -> None:
    from supervisor.serve.wsgi import pool

    idle = ThreadStack(name="web-1", runs_loop=False, frames=(Frame(pool.__file__, 9, pool.Pool._work.__qualname__),))
    busy = ThreadStack(name="web-2", runs_loop=False, frames=tuple(Frame("/a.py", n, "f") for n in range(999)))
    lines = event_lines(Stacks(how="native", threads=(busy, idle, LOOP)))
    assert lines[0] == "the loop's thread MainThread:"
    assert lines[1] == "  /srv/shop/app.py:3 in nap: time.sleep(9)"
    assert lines[2] == "thread web-2:"
    assert not any("web-1" in line for line in lines)
    assert len(lines) == MAX_LINES + 1
    assert lines[-1] == f".. and {999 + 3 - MAX_LINES} lines more"


def test_what_calls_the_app_is_left_out_of_an_event() -> None:
    import supervisor

    ours = Frame(f"{supervisor.__path__[0]}/serve/turns.py", 83, "Turns._run")
    thread = ThreadStack(name="", runs_loop=True, frames=(Frame("<frozen runpy>", 1, "x"), ours, *LOOP.frames, ours))
    assert len(event_lines(Stacks(how="native", threads=(thread,)))) == 3
    thread = ThreadStack(name="", runs_loop=True, frames=(ours,))
    assert len(event_lines(Stacks(how="native", threads=(thread,)))) == 2


def test_the_flight_recorder_names_the_requests_of_native_threads() -> None:
    running = OnRecord("GET", "/a", "", 2.0, "4f")
    waiting = OnRecord("GET", "/b", "", 3.0, thread=0x1F)
    stacks = Stacks(how="native", threads=(LOOP, ThreadStack(name="0x1f", runs_loop=False, frames=())))
    named = with_requests(stacks, Flight(running, True, (waiting,)))
    assert [thread.serving.path for thread in named.threads if thread.serving] == ["/a", "/b"]
    assert with_requests(stacks, Flight(running, False)).threads[0].serving is None, "what is not certain is not told"


def test_the_flight_recorder_has_all_requests_in_place_of_the_tasks() -> None:
    running, waiting = OnRecord("GET", "/a", "192.0.2.1:99", 2.0, "4f"), OnRecord("GET", "/b", "", 3.0)
    in_thread = OnRecord("PUT", "/c", "", 1.0, thread=0x1F)
    stacks = with_requests(Stacks(how="native", threads=(LOOP,)), Flight(running, True, (waiting, in_thread), 2))
    assert _of_worker(stacks)[3:] == [
        "  /srv/shop/app.py:3 in nap: time.sleep(9)",
        "",
        "requests under way, from the flight recorder:",
        "  GET /a (2.0 s, id 4f) from 192.0.2.1:99: holds the event loop",
        "  GET /b (3.0 s): waits",
        "  PUT /c (1.0 s): in a thread",
        "  and 2 more, not yet with the app or too many for the recorder",
        "",
    ]
    unsure = with_requests(Stacks(how="none"), Flight(None, False, (waiting, running)))
    assert [each.doing for each in unsure.requests] == ["may run", "may run"]
    assert msgspec.json.decode(msgspec.json.encode(unsure), type=Stacks) == unsure


def test_all_of_a_worker_as_text() -> None:
    task = TaskStack(
        name="request",
        is_running=False,
        frames=(Frame("/a.py", 1, "f"),),
        serving=Serving(method="GET", path="/", age_s=1.0),
    )
    assert _of_worker(Stacks(how="loop", threads=(LOOP,), tasks=(task,), note="so it is")) == [
        "web:1, pid 7, generation 2, serving",
        "",
        "the loop's thread MainThread:",
        "  /srv/shop/app.py:3 in nap: time.sleep(9)",
        "",
        "task request, GET / (1.0 s):",
        "  /a.py:1 in f",
        "",
        "note: so it is",
    ]


def _of_worker(stacks: Stacks) -> list[str]:
    worker = WorkerStacks(app="web", slot=1, pid=7, generation=2, state="serving", blocked_s=0.0, stacks=stacks)
    return list(stacks_text(worker))


def test_a_picture_is_what_the_record_begins_with_and_nothing_else() -> None:
    picture = Picture(at=3.0, tasks=(TaskStack(name="t", is_running=False, frames=()),))
    data = msgspec.json.encode(picture) + b"\n"
    assert parse_picture(data) == picture
    assert parse_picture(data + b"Thread 0x1 (most recent call first):\n") == picture
    for broken in (b"", data[:-1], b'{"at":\n', b'{"how":"loop"}\n', b"\xff" + data):
        assert parse_picture(broken) is None


def test_tasks_of_a_picture_are_as_much_older_as_it_is_and_the_note_says_so() -> None:
    serving = Serving(method="GET", path="/", age_s=1.0)
    tasks = (
        TaskStack(name="a", is_running=False, frames=(), serving=serving),
        TaskStack(name="b", is_running=False, frames=()),
    )
    stacks = with_picture(Stacks(how="native", note="no Python"), Picture(at=3.0, tasks=tasks, left_out=2), 5.5)
    assert stacks.tasks is not None
    assert stacks.tasks[0].serving == Serving(method="GET", path="/", age_s=3.5)
    assert stacks.left_out == 2
    assert stacks.note.startswith("the tasks are shown as they waited 2.5 s ago")
    assert with_picture(Stacks(how="native"), None, 5.5) == Stacks(how="native")
