"""`dataclass` and `field` without the module `dataclasses`, for classes that each start makes.

That module compiles half a dozen functions from text for each class, and imports `inspect` with
the compiler's tables: together a third of the Python before a guest's first instruction. Here
the methods are closures over the fields' names. What a class is stays the same: `replace`,
`fields` and `asdict` of `dataclasses` take its instances, and type checkers see a dataclass.

Without inheritance, `kw_only`, `order` and `InitVar`. A class of which many are made in a run
writes its own `__init__`: this one costs 3 times as much as a compiled one.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
else:
    _put = object.__setattr__

    class field:
        """A field whose default is made anew for each instance."""

        __slots__ = ("factory",)

        def __init__(self, *, default_factory):
            self.factory = default_factory

    def dataclass(*, frozen=False, slots, eq=True):
        """As `dataclasses.dataclass`; `slots` must be True. Methods of the class's own stay."""
        if not slots:
            raise TypeError("a record has slots")
        return lambda cls: _made(cls, frozen, eq)

    def _made(cls, frozen, eq):
        """The class anew: slots can only be given at its creation."""
        body = dict(cls.__dict__)
        names = tuple(body.get("__annotations__", ()))
        defaults = {name: body.pop(name) for name in names if name in body}
        for name in ("__dict__", "__weakref__"):
            body.pop(name, None)
        methods = {
            "__init__": _init(cls.__name__, names, defaults, "__post_init__" in body),
            "__repr__": _repr(names),
            "__match_args__": names,
            "__slots__": names,
            "__dataclass_fields__": _Fields(names, defaults),
        }
        if eq:
            methods |= {"__eq__": _eq(names), "__hash__": _hash(names) if frozen else None}
        if frozen:
            methods |= {"__setattr__": _frozen, "__delattr__": _frozen}
            methods |= {"__getstate__": _getstate(names), "__setstate__": _setstate(names)}
        made = type(cls)(cls.__name__, cls.__bases__, methods | body)
        made.__qualname__ = cls.__qualname__
        return made

    def _init(of, names, defaults, post):
        known, count = frozenset(names), len(names)

        def __init__(self, /, *values, **named):
            if len(values) > count or not known.issuperset(named):
                raise TypeError(f"{of} takes {', '.join(names)}; got {values}, {named}")
            for name, value in zip(names, values):  # noqa: B905 - the rest comes below
                if name in named:
                    raise TypeError(f"{of} got {name} twice")
                _put(self, name, value)
            for name in names[len(values) :]:
                if name in named:
                    value = named[name]
                elif name in defaults:
                    value = defaults[name]
                    if type(value) is field:
                        value = value.factory()
                else:
                    raise TypeError(f"{of} needs {name}")
                _put(self, name, value)
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
