"""Rows for `microguests`: random rights of one address, one after another, in a guest that compares
each access with what the SDM says ("Determination of Access Rights", "Page-Fault Exceptions",
"Accessed and Dirty Flags").

The guest goes through records: it writes the entries that map WINDOW, forgets them by INVLPG, sets
CR0.WP and EFER.NXE, reads, writes or calls, and looks at the fault and at the entries. What one
record leaves in a TLB must not help or hinder the next.
"""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from typing import NamedTuple

from barevisor.testing.micro import PML4, SPARE, Gate, MicroGuest, entry

WINDOW, FRAME, RECORDS = 0x80_0000_0000, 0x20_0000, 0x30_0000
PDPT_AT, PD_AT, PT_AT = SPARE, SPARE + 0x1000, SPARE + 0x2000
P, W, U, A, D, LARGE, NX, BEYOND = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63, 1 << 51
WRITE, FETCH, USER = 1, 2, 4
"""Of Record.access."""
FAULT = 0x100
COUNT = 1500

LOOP = f"""
    mov esi, {RECORDS}; mov r12d, {COUNT}; mov rbx, {WINDOW}; mov byte [{FRAME}], 0xC3
    next: mov rax, [rsi]; mov [{PT_AT}], rax; mov rax, [rsi+8]; mov [{PD_AT}], rax
    mov rax, [rsi+16]; mov [{PDPT_AT}], rax; invlpg [rbx]
    mov eax, [rsi+24]; mov cr0, rax
    mov ecx, 0xC0000080; mov eax, [rsi+28]; xor edx, edx; wrmsr
    xor r10d, r10d; mov r11d, [rsi+32]; test r11d, {USER}; je go
    push UDATA; push USTACK_; push 2; push UCODE64; push go; iretq
    go: test r11d, {WRITE}; jne store; test r11d, {FETCH}; jne fetch
    mov al, [rbx]; jmp done; store: mov byte [rbx], 0xC3; jmp done; fetch: call rbx
    done: int 0x40
    fault: pop r10; or r10d, {FAULT}
    back: mov rsp, STACK_; cmp r10d, [rsi+36]; jne bad
    mov rax, [{PT_AT}]; cmp rax, [rsi+40]; jne bad; mov rax, [{PD_AT}]; cmp rax, [rsi+48]; jne bad
    add esi, 56; dec r12d; jne next; report 0; end
    bad: sub esi, {RECORDS}; report esi; report r10d; report64 [{PT_AT}]; report64 [{PD_AT}]; end
"""


class Record(NamedTuple):
    """Entries, WP and NXE, and the access; `pde` with LARGE makes no use of `pte`."""

    pte: int
    pde: int
    pdpte: int
    wp: bool
    nxe: bool
    access: int


def outcome(r: Record) -> tuple[int, int, int]:
    """FAULT and the error code, or 0; the entries afterwards."""
    levels = [r.pdpte, r.pde] if r.pde & LARGE else [r.pdpte, r.pde, r.pte]
    user, write, fetch = r.access & USER, r.access & WRITE, r.access & FETCH
    error = (2 if write else 0) | (4 if user else 0) | (16 if fetch and r.nxe else 0)
    for e in levels:
        if not e & P:
            return FAULT | error, r.pte, r.pde
        if e & BEYOND or (e & NX and not r.nxe):
            return FAULT | error | 9, r.pte, r.pde
    allowed = W | U
    for e in levels:
        allowed &= e
    denied = (
        (user and not allowed & U)
        or (write and not allowed & W and (user or r.wp))
        or (fetch and any(e & NX for e in levels))
    )
    if denied:
        return FAULT | error | 1, r.pte, r.pde
    seen = A | D if write else A
    return (0, r.pte, r.pde | seen) if r.pde & LARGE else (0, r.pte | seen, r.pde)


def make(rng: random.Random) -> Record:
    """Mostly present; a reserved bit now and then. What leads to a table has been accessed."""

    def bits(*those: int, often: int = P) -> int:
        e = often if rng.random() < 0.9 else 0
        return e | sum(b for b in those if rng.random() < 0.5)

    rare = [BEYOND if rng.random() < 0.05 else 0 for _ in range(2)]
    large = rng.random() < 0.4
    pde = FRAME | LARGE | bits(W, U, A, D) if large else PT_AT | A | bits(W, U)
    nx = [NX if rng.random() < 0.2 else 0 for _ in range(2)]
    return Record(
        FRAME | bits(W, U, A, D) | rare[0] | nx[0], pde | rare[1] | nx[1],
        PD_AT | P | A | U | (W if rng.random() < 0.8 else 0), rng.random() < 0.5,
        rng.random() < 0.7, rng.choice((0, WRITE, FETCH)) | (USER if rng.random() < 0.5 else 0),
    )  # fmt: skip


def packed(r: Record) -> bytes:
    """As the guest reads it."""
    fault, pte, pde = outcome(r)
    cr0, efer = 0x80000031 | r.wp << 16, 0x501 | r.nxe << 11
    head = struct.pack("<QQQIIII", r.pte, r.pde, r.pdpte, cr0, efer, r.access, fault)
    return head + struct.pack("<QQ", pte, pde)


def rights(seed: int) -> MicroGuest:
    """A row of COUNT records."""
    rng = random.Random(seed)
    return MicroGuest(
        f"rights: random rights of one address, {seed}", "long", LOOP, (0,),
        gates={14: Gate("fault"), 0x40: Gate("back", dpl=3)},
        poke={PML4 + 8: entry(PDPT_AT, 7),
              RECORDS: b"".join(packed(make(rng)) for _ in range(COUNT))},
    )  # fmt: skip


RIGHT_ROWS = tuple(
    replace(rights(seed), not_emulated="lacks much of this", not_nested="lacks much of this")
    for seed in range(4)
)
