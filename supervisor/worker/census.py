"""Counting what lies in memory: objects by type, the largest containers, allocations by line.

Invariants: each function is a generator that yields after a fraction of a millisecond's work at most, but for the one
call that lists what there is; and none runs any code of the app: lengths, sizes and contents are asked of the built-in
types themselves, attributes of nobody.

Objects from before the fork are frozen (`gc.freeze`), and the collector does not list them. So the containers among
them are looked for from the app's own modules on, a few steps deep. To look at an object is to write its reference
count, which unshares its page: from all modules on it would be most of what workers share, 21 MB of a FastAPI app's.
"""

from __future__ import annotations

import gc
import heapq
import os
import sys
import sysconfig
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import count, islice
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import supervisor
from supervisor.messages.heap import MAX_CONTAINERS, MAX_KINDS, MAX_TEXT, Container, Kind

AT_ONCE = 500  # objects between two yields
LEAST_LENGTH = 100
MAX_NODES = 50_000  # that are visited from the modules on
DEPTH = 4  # steps from a module's global
PEEK = 64  # entries of a container that are followed or asked for their type
MAX_NAME = 100

_BUILT_IN: tuple[Any, ...] = (dict, list, set, frozenset, deque, tuple)
_OURS = os.path.dirname(supervisor.__file__) + os.sep
_LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_ENDS = (ModuleType, FunctionType, BuiltinFunctionType, CodeType)

Found = tuple[int, int, int, Any]  # growth, length, a number that breaks ties, the container


class Census:
    """One count; `before` is an earlier one, to tell what has grown since. Objects are held while they are counted, and
    the largest containers as long as the census."""

    def __init__(self, before: Census | None = None) -> None:
        self.counts: Counter[int] = Counter()  # by id of the type: a metaclass may have its own idea of equality
        self.lengths: dict[int, int] = {}  # of all large containers, by id
        self._before = before
        self._largest: list[Found] = []
        self._numbers = count()
        self._names: dict[int, str] = {}
        self._types: dict[int, tuple[type, Any]] = {}  # by id; with the built-in type that a container's is
        own = {id(self.lengths), id(self._names), id(self._types), id(self.counts)}
        self._own: set[int] = own if before is None else own | before._own

    def take(self) -> Iterator[None]:
        """Everything."""
        yield from self._walk()
        yield from self._count()

    def _count(self) -> Iterator[None]:
        """By type, and the largest containers, of all that the collector knows."""
        objects = gc.get_objects()
        while objects:
            some = objects[-AT_ONCE:]
            del objects[-AT_ONCE:]
            for each in some:
                self.counts[id(type(each))] += 1
                self._consider(each)
            del some, each
            yield

    def _walk(self) -> Iterator[None]:
        """The containers that can be reached from modules, with the way to them."""
        nodes: deque[tuple[Any, str, int]] = deque()
        for name, module in list(sys.modules.items()):
            if issubclass(type(module), ModuleType) and _is_of_the_app(module):
                nodes.append((ModuleType.__getattribute__(module, "__dict__"), name, 0))
        visited = 0
        known: set[int] = set()
        while nodes and visited < MAX_NODES:
            node, name, depth = nodes.popleft()
            visited += 1
            if visited % (AT_ONCE // PEEK) == 0:
                yield
            if id(node) in known:
                continue
            known.add(id(node))
            if depth and self._consider(node):
                self._names.setdefault(id(node), name)
            if depth < DEPTH:
                nodes.extend((each, of, depth + 1) for each, of in _steps(node, name, depth) if _leads_on(each, of))

    def let_go(self) -> None:
        """Hold no object any more; only figures are needed from now on."""
        self._largest.clear()
        self._names.clear()

    def largest(self) -> tuple[Container, ...]:
        """Of all that were met, those that have grown most first, then the longest."""
        return tuple(
            Container(
                kind=name_of(type(it)),
                length=length,
                grown=max(0, grown),
                bytes=int(base_of(type(it)).__sizeof__(it)),
                name=self._names.get(id(it), ""),
                holds=_holds(it),
            )
            for grown, length, _number, it in sorted(self._largest, reverse=True, key=lambda found: found[:3])
        )

    def kinds(self) -> tuple[Kind, ...]:
        """Those that have become more first, then the commonest."""
        before = self._before.counts if self._before is not None else self.counts
        grown = Counter({kind: count - before[kind] for kind, count in self.counts.items()})
        first = [kind for kind, more in grown.most_common(MAX_KINDS // 2) if more > 0]
        rest = [kind for kind, _count in self.counts.most_common(MAX_KINDS) if kind not in first]
        return tuple(
            Kind(name=name_of(self._types[kind][0]), count=self.counts[kind], grown=grown[kind])
            for kind in (first + rest)[:MAX_KINDS]
        )

    def _consider(self, it: Any) -> bool:
        """Whether it is a container; a large one is kept among the largest."""
        kind = type(it)
        if id(kind) not in self._types:
            self._types[id(kind)] = kind, base_of(kind)
        _kind, base = self._types[id(kind)]
        if base is None:
            return False
        length = base.__len__(it)
        if length >= LEAST_LENGTH and id(it) not in self.lengths and id(it) not in self._own:
            self.lengths[id(it)] = length
            grown = length - self._before.lengths.get(id(it), 0) if self._before is not None else 0
            self._keep((grown, length, next(self._numbers), it))
        return True

    def _keep(self, found: Found) -> None:
        if len(self._largest) < MAX_CONTAINERS:
            heapq.heappush(self._largest, found)
        elif found[:2] > self._largest[0][:2]:
            heapq.heapreplace(self._largest, found)


def is_library(path: str) -> bool:
    """Whether a file is Python's, an installed package's or ours, and so not the app's own."""
    return path.startswith((*_LIBRARIES, _OURS, "<frozen"))


def name_of(kind: type) -> str:
    """`shop.models.Order`, or `dict`."""
    try:
        module, name = str(kind.__module__), str(kind.__qualname__)
    except Exception:  # a metaclass can do anything
        return "?"
    return (name if module == "builtins" else f"{module}.{name}")[:MAX_TEXT]


def base_of(kind: type) -> Any:
    """The built-in type by which to ask a container of this type; None for what is no container."""
    return next((base for base in _BUILT_IN if issubclass(kind, base)), None)


def _is_of_the_app(module: ModuleType) -> bool:
    file = ModuleType.__getattribute__(module, "__dict__").get("__file__")
    return type(file) is str and not is_library(file)


def _steps(node: Any, name: str, depth: int) -> Iterable[tuple[Any, str]]:
    """What lies one step on, and how it is called there."""
    base = base_of(type(node))
    if base is dict:
        # A module's names are all looked at; of a large table a few entries tell as much as all.
        entries = islice(dict.items(node), None if depth == 0 else PEEK)
        named = [(value, key) for key, value in list(entries) if type(key) is not str or key != "__builtins__"]
        return [(value, _entry(name, key, is_module=depth == 0)) for value, key in named]
    if base is not None:
        return [(value, f"{name}[..]") for value in list(islice(base.__iter__(node), PEEK))]
    return [(value, f"{name}.." if type(value) is not dict else name) for value in gc.get_referents(node)[:PEEK]]


def _entry(name: str, key: object, *, is_module: bool) -> str:
    is_name = type(key) is str and key.isidentifier()
    step = f".{key}" if is_name else "[..]"
    return name if len(name) > MAX_NAME else (name + step)[: MAX_TEXT if is_module else MAX_NAME]


def _leads_on(it: Any, name: str) -> bool:
    """Whether a container may lie behind it. Of classes only a module's own are looked into."""
    if issubclass(type(it), type):
        return name_of(it) == name
    return (gc.is_tracked(it) and not issubclass(type(it), _ENDS)) or base_of(type(it)) is not None


def _holds(it: Any) -> str:
    base = base_of(type(it))
    values = dict.values(it) if base is dict else base.__iter__(it)
    kinds = Counter(type(value) for value in list(islice(values, PEEK)))
    return name_of(kinds.most_common(1)[0][0]) if kinds else ""
