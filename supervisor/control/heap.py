"""`holdfastctl heap`: what a worker holds, as a person reads it. What grew comes first."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from supervisor.control.tables import size
from supervisor.messages.heap import Allocation, Container, Heap, Kind
from supervisor.observe.render import escape

SHOWN = 10  # rows of each table; --json has all
DEFAULT_DIFF = 10.0  # seconds


def cost(target: str, seconds: float, frames: int) -> str:
    """What a survey takes, told before it begins. Measured with a small FastAPI app."""
    if not seconds:
        return f"{target}: objects are counted, in slices of 2 ms"
    times = "four to five times" if frames == 1 else "ten times and more"
    return (
        f"{target}: allocations are traced for {seconds:g} s; a request takes this worker {times} the CPU until then, "
        "the others nothing"
    )


def pictures(heap: Heap) -> Iterator[RenderableType]:
    """What there is to show, a heading before each table."""
    if heap.note:
        yield Text(escape(heap.note), "yellow")
    if heap.seconds:
        total = f"{size(heap.traced_bytes)} in {heap.traced_count} blocks"
        yield _heading(f"Allocated in {heap.seconds:.1f} s and not freed: {total}")
        yield _allocations(heap.allocations)
    yield _heading(
        f"Objects by type, {heap.objects} that the garbage collector knows and that are not from before the fork"
    )
    yield _kinds(heap.kinds, has_grown=bool(heap.seconds))
    yield _heading("Largest containers" + (", those that grew first" if heap.seconds else ""))
    yield _containers(heap.containers, has_grown=bool(heap.seconds))


def _heading(text: str) -> Text:
    return Text(text, "bold")


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
    for title in titles:
        is_number = title.strip() in ("SIZE", "BLOCKS", "COUNT", "GROWN", "LENGTH")
        table.add_column(title, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return table


def _allocations(rows: tuple[Allocation, ...]) -> Table:
    table = _table("  SIZE", "BLOCKS", "LINE", "SOURCE")
    for row in rows[:SHOWN]:
        source = escape(row.source) + (f"  (by {escape(row.by)})" if row.by else "")
        table.add_row(f"  {size(row.bytes)}", str(row.count), Text(escape(row.place)), Text(source))
    return table


def _kinds(rows: tuple[Kind, ...], *, has_grown: bool) -> Table:
    table = _table("  COUNT", *(["GROWN"] if has_grown else []), "TYPE")
    for row in rows[:SHOWN]:
        table.add_row(f"  {row.count}", *([f"{row.grown:+d}"] if has_grown else []), Text(escape(row.name)))
    return table


def _containers(rows: tuple[Container, ...], *, has_grown: bool) -> Table:
    table = _table("  LENGTH", *(["GROWN"] if has_grown else []), "SIZE", "TYPE", "HOLDS", "NAME")
    for row in rows[:SHOWN]:
        grown = [f"{row.grown:+d}"] if has_grown else []
        texts = (Text(escape(text)) for text in (row.kind, row.holds, row.name))
        table.add_row(f"  {row.length}", *grown, size(row.bytes), *texts)
    return table
