"""`dataclass`, `field` and `NamedTuple` for classes that each start makes, without the modules
`dataclasses` and `typing`.

The first compiles half a dozen functions from text for each class and imports `inspect` with the
compiler's tables, the second compiles each annotation: together a fifth of a start's imports (ADR
14 has the figures). Here the methods are closures over the fields' names. What a class is stays
the same: `replace`, `fields` and `asdict` of `dataclasses` take its instances, and type checkers
see what the names say.

Without inheritance, `kw_only`, `order` and `InitVar`. To make one of these dataclasses costs 2 to 4
times as much as a compiled one, most where fields are named: not for what a run makes many of.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from typing import NamedTuple as NamedTuple
    from typing import Protocol as Protocol
else:
    from collections import _tuplegetter

    _put = object.__setattr__

    class Protocol:
        """What others are like; only type checkers look."""

        __slots__ = ()

    class _TupleMeta(type):
        """Makes the subclasses of NamedTuple, which are tuples and nothing else."""

        def __new__(meta, name, bases, body):
            if not bases:
                return super().__new__(meta, name, bases, body)
            names = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in names if field in body}
            methods = {field: _tuplegetter(at, "") for at, field in enumerate(names)}
            methods |= {
                "__new__": _new(name, names, defaults),
                "__repr__": _repr(names),
                "__getnewargs__": lambda self: tuple(self),
                "__match_args__": names,
                "__slots__": (),
                "_fields": names,
                "_asdict": lambda self: dict(zip(names, self, strict=True)),
                "_replace": lambda self, **new: type(self)(**(self._asdict() | new)),
            }
            return type(name, (tuple,), methods | body)

    class NamedTuple(metaclass=_TupleMeta):
        """As `typing.NamedTuple`."""

    def _new(of, names, defaults):
        count, make, complete = len(names), tuple.__new__, _completer(of, names, defaults)

        def __new__(cls, /, *values, **named):
            if named or len(values) != count:
                values = complete(values, named)
            return make(cls, values)

        return __new__

    def _completer(of, names, defaults):
        """Makes of a call's arguments the values of all fields, in their order."""
        count, needed, fields = len(names), len(names), frozenset(names)
        while needed and names[needed - 1] in defaults:
            needed -= 1
        tail = (None,) * needed + tuple([defaults[name] for name in names[needed:]])

        def complete(values, named):
            if not named and needed <= len(values) <= count:
                return values + tail[len(values) :]
            given = dict(zip(names, values))  # noqa: B905 - too many are refused below
            known = {**defaults, **given, **named}
            if len(values) > count or given.keys() & named.keys() or not known.keys() <= fields:
                raise TypeError(f"{of} takes {', '.join(names)}; got {values}, {named}")
            if len(known) < count:
                raise TypeError(f"{of} needs {', '.join(n for n in names if n not in known)}")
            return tuple([known[name] for name in names])

        return complete

    class field:
        """A field whose default is made anew for each instance."""

        __slots__ = ("factory",)

        def __init__(self, *, default_factory):
            self.factory = default_factory

    def dataclass(*, frozen=False, slots):
        """As `dataclasses.dataclass`; `slots` must be True. Methods of the class's own stay."""
        if not slots:
            raise TypeError("a record has slots")
        return lambda cls: _made(cls, frozen)

    def _made(cls, frozen):
        """The class anew: slots can only be given at its creation."""
        body = dict(cls.__dict__)
        names = tuple(body.get("__annotations__", ()))
        defaults = {name: body.pop(name) for name in names if name in body}
        for name in ("__dict__", "__weakref__"):
            body.pop(name, None)
        methods = {
            "__init__": _init(cls.__name__, names, defaults, "__post_init__" in body),
            "__repr__": _repr(names),
            "__eq__": _eq(names),
            "__hash__": _hash(names) if frozen else None,
            "__match_args__": names,
            "__slots__": names,
            "__dataclass_fields__": _Fields(names, defaults),
        }
        if frozen:
            methods |= {"__setattr__": _frozen, "__delattr__": _frozen}
            methods |= {"__getstate__": _getstate(names), "__setstate__": _setstate(names)}
        made = type(cls)(cls.__name__, cls.__bases__, methods | body)
        made.__qualname__ = cls.__qualname__
        return made

    def _init(of, names, defaults, post):
        count, complete = len(names), _completer(of, names, defaults)

        def __init__(self, /, *values, **named):
            if named or len(values) != count:
                values = complete(values, named)
            for name, value in zip(names, values, strict=True):
                _put(self, name, value.factory() if type(value) is field else value)
            if post:
                self.__post_init__()

        return __init__

    def _values(self, names):
        return tuple(getattr(self, name) for name in names)

    def _repr(names):
        def __repr__(self):
            text = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
            return f"{type(self).__qualname__}({text})"

        return __repr__

    def _eq(names):
        def __eq__(self, other):
            if type(other) is not type(self):
                return NotImplemented
            return _values(self, names) == _values(other, names)

        return __eq__

    def _hash(names):
        def __hash__(self):
            return hash(_values(self, names))

        return __hash__

    def _frozen(self, name, value=None):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot change")

    def _getstate(names):
        return lambda self: _values(self, names)

    def _setstate(names):
        def __setstate__(self, state):
            for name, value in zip(names, state, strict=True):
                _put(self, name, value)

        return __setstate__

    class _Fields:
        """What `dataclasses` looks for in a class, made when it looks."""

        def __init__(self, names, defaults):
            self._names, self._defaults = names, defaults
            self._made = None

        def __get__(self, instance, owner):
            if self._made is None:
                self._made = self._look_up(owner)
            return self._made

        def _look_up(self, owner):
            import dataclasses

            rows = []
            for name in self._names:
                row = dataclasses.field()
                if name in self._defaults:
                    default = self._defaults[name]
                    row = (
                        dataclasses.field(default_factory=default.factory)
                        if type(default) is field
                        else dataclasses.field(default=default)
                    )
                rows.append((name, owner.__annotations__[name], row))
            model = dataclasses.make_dataclass(owner.__name__, rows)
            return model.__dataclass_fields__
