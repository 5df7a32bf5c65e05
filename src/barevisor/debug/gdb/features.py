"""The target description (gdb manual, "Target Descriptions"), made of the register table."""

from __future__ import annotations

from functools import cache
from itertools import groupby

from barevisor.debug.gdb.registers import CORE, REGISTERS, SSE

FLAGS = {
    "i386_eflags": (
        ("CF", 0), ("", 1), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9),
        ("DF", 10), ("OF", 11), ("NT", 14), ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19),
        ("VIP", 20), ("ID", 21),
    ),
    "i386_mxcsr": (
        ("IE", 0), ("DE", 1), ("ZE", 2), ("OE", 3), ("UE", 4), ("PE", 5), ("DAZ", 6), ("IM", 7),
        ("DM", 8), ("ZM", 9), ("OM", 10), ("UM", 11), ("PM", 12), ("FZ", 15),
    ),
}  # fmt: skip
"""Names of single bits (SDM, "EFLAGS Register", "MXCSR Control and Status Register")."""

VECTORS = (
    ("v4_float", "v4f", "ieee_single", 4), ("v2_double", "v2d", "ieee_double", 2),
    ("v16_int8", "v16i8", "int8", 16), ("v8_int16", "v8i16", "int16", 8),
    ("v4_int32", "v4i32", "int32", 4), ("v2_int64", "v2i64", "int64", 2),
)  # fmt: skip
"""The views that gdb users expect of an XMM register: member, type, element, count."""


def _flags(name: str) -> list[str]:
    fields = [f'<field name="{n}" start="{b}" end="{b}"/>' for n, b in FLAGS[name]]
    return [f'<flags id="{name}" size="4">', *fields, "</flags>"]


def _vec128() -> list[str]:
    types = [f'<vector id="{t}" type="{e}" count="{c}"/>' for _, t, e, c in VECTORS]
    members = [f'<field name="{m}" type="{t}"/>' for m, t, _, _ in VECTORS]
    return [*types, '<union id="vec128">', *members,
            '<field name="uint128" type="uint128"/>', "</union>"]  # fmt: skip


@cache
def description() -> bytes:
    """target.xml."""
    types = {CORE: _flags("i386_eflags"), SSE: [*_vec128(), *_flags("i386_mxcsr")]}
    lines = ['<?xml version="1.0"?>', '<!DOCTYPE target SYSTEM "gdb-target.dtd">', "<target>",
             "<architecture>i386:x86-64</architecture>"]  # fmt: skip
    for feature, rows in groupby(REGISTERS, key=lambda r: r.feature):
        lines += [f'<feature name="{feature}">', *types.get(feature, [])]
        for r in rows:
            group = f' group="{r.group}"' if r.group else ""
            lines.append(f'<reg name="{r.name}" bitsize="{r.bits}" type="{r.type}"{group}/>')
        lines.append("</feature>")
    return "\n".join([*lines, "</target>", ""]).encode()
