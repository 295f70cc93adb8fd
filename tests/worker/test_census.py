"""What is counted of a heap, and that nothing in it gets a say in that."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from supervisor.messages.heap import Container, Kind
from supervisor.worker.census import Census, is_library


def taken(before: Census | None = None) -> Census:
    census = Census(before)
    for _ in census.take():
        pass
    return census


@pytest.fixture
def shop() -> Iterator[ModuleType]:
    """A module of an app."""
    module: Any = ModuleType("shop")
    module.__file__ = "/srv/shop/shop.py"
    sys.modules["shop"] = module
    yield module
    del sys.modules["shop"]


def named(census: Census, name: str) -> Container:
    (found,) = [it for it in census.largest() if it.name == name]
    return found


class Order:
    """Something to be counted."""


def test_what_has_become_more_comes_first_with_by_how_much() -> None:
    before = taken()
    held = [Order() for _ in range(50)]
    kinds = taken(before).kinds()
    assert Kind(name=f"{__name__}.Order", count=len(held), grown=50) in kinds[:5]


def test_a_container_is_named_by_the_way_to_it_from_its_module(shop: Any) -> None:
    class Cart:
        """With a container of the class, and one of each instance."""

        items: list[int] = []

        def __init__(self) -> None:
            self.__dict__["lines"] = dict.fromkeys(range(70000), "x")

    Cart.__module__, Cart.__qualname__ = "shop", "Cart"
    Cart.items += range(60_000)
    shop.Cart, shop.cart = Cart, Cart()
    shop.TABLE = {"prices": set(range(80_000)), 5: tuple(range(90_000))}
    census = taken()
    assert named(census, "shop.Cart.items").length == 60_000
    assert named(census, "shop.TABLE.prices").kind == "set"
    assert named(census, "shop.TABLE[..]").kind == "tuple"
    lines = named(census, "shop.cart.lines")
    assert (lines.kind, lines.length, lines.holds) == ("dict", 70_000, "str")
    assert lines.bytes > 70_000 * 8


def test_a_container_that_grew_comes_before_those_that_are_only_large(shop: Any) -> None:
    shop.LARGE, shop.GROWING = list(range(100_000)), [0] * 200
    before = taken()
    before.let_go()
    shop.GROWING += range(500)
    first = taken(before).largest()[0]
    assert (first.name, first.length, first.grown) == ("shop.GROWING", 700, 500)


def test_modules_of_libraries_are_not_walked_through() -> None:
    assert is_library(sys.modules["json"].__file__ or "")
    assert is_library(pytest.__file__)
    assert is_library(sys.modules["supervisor.errors"].__file__ or "")
    assert not is_library(__file__)
    assert not any(it.name.startswith(("html.", "sysconfig.", "supervisor.")) for it in taken().largest())


def test_nothing_of_the_app_is_run(shop: Any) -> None:
    def fail(*_: object) -> Any:
        raise AssertionError("the app was asked")

    class Meta(type):
        __eq__ = fail
        __hash__ = fail

    class Evil(dict[Any, Any], metaclass=Meta):
        __len__ = __iter__ = __sizeof__ = items = values = __getattr__ = __getattribute__ = fail

    class Key:
        __hash__ = object.__hash__
        __eq__ = __ne__ = __repr__ = fail

    evil = Evil()
    dict.update(evil, {Key(): 1, "first": 2, "__builtins__": 3})
    dict.update(evil, dict.fromkeys(range(100_000)))
    shop.EVIL = {"all": evil, "queue": deque([evil])}
    assert named(taken(), "shop.EVIL.all").length == 100_003


def test_it_yields_often() -> None:
    held = [[number] for number in range(20_000)]
    assert sum(1 for _ in Census().take()) > len(held) / 1000
