"""Barevisor: a Linux hypervisor in Python. The public names, imported when they are used."""

from __future__ import annotations

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without its import of half the library
if TYPE_CHECKING:
    from barevisor.config import Share, VmConfig
    from barevisor.errors import (
        BarevisorError,
        CommandNotExecutable,
        CommandNotFound,
        ConfigError,
        EngineError,
        GuestCrash,
        GuestError,
        GuestTimeout,
        HostError,
    )
    from barevisor.process import CompletedProcess, Process
    from barevisor.vm import Vm

__version__ = "0.1.0"

__all__ = [
    "BarevisorError",
    "CommandNotExecutable",
    "CommandNotFound",
    "CompletedProcess",
    "ConfigError",
    "EngineError",
    "GuestCrash",
    "GuestError",
    "GuestTimeout",
    "HostError",
    "Process",
    "Share",
    "Vm",
    "VmConfig",
    "__version__",
]

_ELSEWHERE = {
    "CompletedProcess": "process",
    "Process": "process",
    "Share": "config",
    "Vm": "vm",
    "VmConfig": "config",
}
"""The module of each name that is not an error."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"{__name__}.{_ELSEWHERE.get(name, 'errors')}")
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
