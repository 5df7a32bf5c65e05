"""Records behave as the dataclasses that they stand for, and need less of Python."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

from barevisor import records


@records.dataclass(frozen=True, slots=True)
class Point:
    """Doc."""

    x: int
    y: int = 2

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("negative")

    @property
    def sum(self) -> int:
        return self.x + self.y


@records.dataclass(slots=True)
class Bag:
    """Doc."""

    point: Point
    items: list[int] = records.field(default_factory=list)


@records.dataclass(slots=True)
class Own:
    """Has an __init__ of its own."""

    x: int

    def __init__(self, x: int) -> None:
        self.x = 2 * x


Real = dataclasses.make_dataclass("Point", [("x", int), ("y", int, 2)], frozen=True)

CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}), ((1, 3), {}), ((), {"x": 1}), ((1,), {"y": 5}), ((), {"y": 5, "x": 1}),
    ((), {}), ((), {"y": 1}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1}),
]  # fmt: skip


def outcome(kind: Any, values: tuple[Any, ...], named: dict[str, Any]) -> object:
    try:
        made = kind(*values, **named)
    except TypeError:
        return TypeError
    return repr(made), hash(made), made == kind(1, 2), made == 1


@pytest.mark.parametrize(("values", "named"), CALLS, ids=lambda value: str(value))
def test_it_is_made_as_a_dataclass_is(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    assert outcome(Point, values, named) == outcome(Real, values, named)


def test_a_frozen_one_cannot_change() -> None:
    point = Point(1)
    for change in (
        lambda: setattr(point, "x", 2),
        lambda: delattr(point, "x"),
        lambda: setattr(point, "z", 2),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert point.sum == 3
    assert Point.__doc__ == "Doc."
    with pytest.raises(ValueError, match="negative"):
        Point(-1)


def test_a_mutable_one_has_slots_and_defaults_of_its_own() -> None:
    one, other = Bag(Point(1)), Bag(Point(1))
    assert one == other
    one.items.append(1)
    assert one != other
    assert other.items == []
    one.point = Point(5)
    with pytest.raises(AttributeError):
        one.more = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        hash(one)


def test_methods_of_its_own_stay() -> None:
    assert Own(2).x == 4
    assert repr(Own(2)) == "Own(x=4)"


def test_what_works_on_dataclasses_works_on_records() -> None:
    bag = Bag(Point(1), [3])
    assert dataclasses.is_dataclass(bag)
    assert dataclasses.asdict(bag) == {"point": {"x": 1, "y": 2}, "items": [3]}
    assert dataclasses.replace(bag.point, y=7) == Point(1, 7)
    assert dataclasses.replace(bag).items is bag.items
    with pytest.raises(ValueError, match="negative"):
        dataclasses.replace(bag.point, x=-1)
    assert [f.name for f in dataclasses.fields(Bag)] == ["point", "items"]
    match bag:
        case Bag(Point(x), [item]):
            assert (x, item) == (1, 3)
        case _:
            pytest.fail("no match")


def pickled(value: object) -> object:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("kind", [copy.copy, copy.deepcopy, pickled])
def test_copies(kind: Any) -> None:
    assert kind(Bag(Point(1, 4), [2])) == Bag(Point(1, 4), [2])
    assert kind(Point(1, 4)) == Point(1, 4)


def test_without_slots_there_is_none() -> None:
    with pytest.raises(TypeError, match="slots"):
        records.dataclass(slots=False)(type("X", (), {}))


class Pair(records.NamedTuple):
    """Doc."""

    x: int
    y: int = 2

    @property
    def sum(self) -> int:
        return self.x + self.y


class RealPair(NamedTuple):
    x: int
    y: int


RealPair.__new__.__defaults__ = (2,)


@pytest.mark.parametrize(("values", "named"), CALLS, ids=lambda value: str(value))
def test_a_tuple_is_made_as_a_named_one_is(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    def made(kind: Any) -> object:
        try:
            return tuple(kind(*values, **named))
        except TypeError:
            return TypeError

    assert made(Pair) == made(RealPair)


def test_a_named_tuple_is_a_tuple() -> None:
    pair = Pair(1, y=4)
    assert pair == (1, 4)
    assert (pair.x, pair.y, pair.sum, len(pair), repr(pair)) == (1, 4, 5, 2, "Pair(x=1, y=4)")
    assert (pair._replace(y=5), pair._asdict(), Pair._fields) == (
        (1, 5), {"x": 1, "y": 4}, ("x", "y"),
    )  # fmt: skip
    assert copy.deepcopy(pair) == pickle.loads(pickle.dumps(pair)) == pair
    with pytest.raises(AttributeError):
        pair.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        pair.z = 2  # type: ignore[attr-defined]
    match pair:
        case Pair(1, y):
            assert y == 4
        case _:
            pytest.fail("no match")


@pytest.mark.parametrize("code", [
    "import barevisor.cli.image, barevisor.cpu.kvm.vm",
    "import barevisor.cli.session, barevisor.assembly, barevisor.cpu.kvm.vm",
    "import barevisor.cpu.bt.vm",
], ids=["bare image on kvm", "linux on kvm", "bt"])  # fmt: skip
def test_a_start_does_without_the_real_ones(code: str) -> None:
    script = (
        f"{code}\nimport sys\nprint(*{{'dataclasses', 'inspect', 'typing'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.split() == []
