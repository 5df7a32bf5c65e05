"""Which engine runs the guest."""

from __future__ import annotations

from barevisor.cpu.engine import Engine
from barevisor.errors import ConfigError

NAMES = ("auto", "kvm", "bt")


def select(name: str) -> tuple[Engine, str]:
    """The engine called `name`, and why it was chosen in one line ("" when it was named).

    "auto" takes kvm when its probe succeeds, else bt. Raises ConfigError for another name.
    Engines are imported only when they are used: the software engine is large.
    """
    match name:
        case "kvm":
            return _kvm(), ""
        case "bt":
            return _bt(), ""
        case "auto":
            kvm = _kvm()
            reason = kvm.probe()
            return (_bt(), reason) if reason else (kvm, "/dev/kvm runs what a stock kernel needs")
    raise ConfigError(f"unknown engine {name!r}", f"one of {', '.join(NAMES)}")


def _kvm() -> Engine:
    from barevisor.cpu.kvm.vm import KvmEngine

    return KvmEngine()


def _bt() -> Engine:
    # By name: the software engine is compiled, and mypy need not have it built.
    from importlib import import_module

    engine: Engine = import_module("barevisor.cpu.bt.vm").BtEngine()
    return engine
