"""How translated code is entered, how it calls the VMM, and how it goes on.

Pieces of code, written once into each VM's code memory. A site calls `call_site`; the number
behind the call says which. All guest registers then go to struct Cpu, a C function decides, and
translated code goes on wherever that says, with registers, and if asked for flags and vector
registers, loaded again.
"""

import cython
from cython.cimports.barevisor.cpu.bt.asm import *
from cython.cimports.barevisor.cpu.bt.codemem import code_add
from cython.cimports.barevisor.cpu.bt.state import *
from cython.cimports.barevisor.cpu.bt.trace import CROSS_SIZE, Translator

SAVED: cython.uint[6] = cython.declare(cython.uint[6])
SAVED[0], SAVED[1], SAVED[2], SAVED[3], SAVED[4], SAVED[5] = 3, 5, 12, 13, 14, 15
H_RDX: u32 = cython.declare(u32, 2)
CALL_RAX: u32 = cython.declare(u32, 0xD0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _all_registers(a: cython.pointer(Asm), store: u32) -> cython.void:
    """Guest registers to or from Cpu.regs; R9, R10 and R11 are there anyway."""
    n: u32
    for n in range(16):
        if n == 4:
            gs_op(a, 0x89 if store else 0x8B, H_SP, 32, 1)
        elif n < 9 or n > 11:
            gs_op(a, 0x89 if store else 0x8B, n, n * 8, 1)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _vector(a: cython.pointer(Asm), opcode: u32, number: u32, field: u32, wide: u32) -> cython.void:
    """vmovups between xmm or ymm `number` and gs:[field]"""
    a1(a, 0x65)
    a1(a, 0xC5)
    a1(a, 0x78 | (0 if number & 8 else 0x80) | (4 if wide else 0))
    a1(a, opcode)
    a1(a, 0x04 | (number & 7) << 3)
    a1(a, 0x25)
    a4(a, field - CPU_SPAN)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _vzeroupper(a: cython.pointer(Asm)) -> cython.void:
    a1(a, 0xC5)
    a1(a, 0xF8)
    a1(a, 0x77)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _load_vectors(a: cython.pointer(Asm), fields: cython.pointer(Cpu)) -> cython.void:
    """Called; leaves general registers alone. When all upper halves are zero only the lower ones
    are loaded: SSE code is slow while the host believes the upper halves to be in use."""
    n: u32
    wide: u32
    vec: u32 = field_of(cython.address(fields.vec[0]))
    _vector(a, 0x10, 0, vec + 16, 0)
    for n in range(1, 16):  # vpor xmm0, xmm0, gs:[upper half]
        a1(a, 0x65)
        a1(a, 0xC5)
        a1(a, 0xF9)
        a1(a, 0xEB)
        a1(a, 0x04)
        a1(a, 0x25)
        a4(a, vec + 32 * n + 16 - CPU_SPAN)
    a1(a, 0xC4)  # vptest xmm0, xmm0
    a1(a, 0xE2)
    a1(a, 0x79)
    a1(a, 0x17)
    a1(a, 0xC0)
    gs_set(a, field_of(cython.address(fields.vec_live)), 1)
    wide = jcc(a, CC_NE)
    _vzeroupper(a)
    for n in range(16):
        _vector(a, 0x10, n, vec + 32 * n, 0)
    a1(a, 0xC3)
    bind_here(a, wide)
    for n in range(16):
        _vector(a, 0x10, n, vec + 32 * n, 1)
    a1(a, 0xC3)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _go_on(a: cython.pointer(Asm), fields: cython.pointer(Cpu), load_vectors: u64) -> cython.void:
    """Load what cpu.resume_* asks for and go on at cpu.resume."""
    vectors: u32
    flags: u32
    gs_test(a, field_of(cython.address(fields.resume_vec)))
    vectors = jcc(a, CC_E)
    call_host(a, load_vectors)
    bind_here(a, vectors)
    gs_test(a, field_of(cython.address(fields.resume_flags)))
    flags = jcc(a, CC_E)
    restore_flags(a)
    bind_here(a, flags)
    _all_registers(a, 0)
    gs_load(a, S0, field_of(cython.address(fields.missed_va)))
    a1(a, 0x65)  # jmp gs:[resume]
    a1(a, 0xFF)
    a1(a, 0x24)
    a1(a, 0x25)
    a4(a, field_of(cython.address(fields.resume)) - CPU_SPAN)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _enter(a: cython.pointer(Asm), fields: cython.pointer(Cpu), load_vectors: u64) -> cython.void:
    """int enter(u64 code): the stack stays aligned to 16 within translated code."""
    n: u32
    for n in range(6):
        if SAVED[n] & 8:
            a1(a, 0x41)
        a1(a, 0x50 | SAVED[n] & 7)
    lea(a, 4, 4, R_NONE, 0, cython.cast(u32, -8), 8)
    gs_store(a, 7, field_of(cython.address(fields.resume)))
    _go_on(a, fields, load_vectors)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _call_site(
    a: cython.pointer(Asm), fields: cython.pointer(Cpu), handler: u64, load_vectors: u64
) -> cython.void:
    n: u32
    vectors: u32
    leave: u32
    gs_store(a, S0, field_of(cython.address(fields.missed_va)))
    a1(a, 0x41)  # pop S0
    a1(a, 0x58 | S0 & 7)
    a1(a, 0x45)  # mov S0d, [S0]
    a1(a, 0x8B)
    a1(a, (S0 & 7) << 3 | S0 & 7)
    gs_op(a, 0x89, S0, field_of(cython.address(fields.site)), 0)
    _all_registers(a, 1)
    gs_test(a, field_of(cython.address(fields.vec_live)))
    vectors = jcc(a, CC_E)
    for n in range(16):
        _vector(a, 0x11, n, field_of(cython.address(fields.vec[0])) + 32 * n, 1)
    _vzeroupper(a)
    gs_set(a, field_of(cython.address(fields.vec_live)), 0)
    bind_here(a, vectors)
    gs_load(a, 7, field_of(cython.address(fields.self)))
    mov_imm64(a, H_RAX, handler)
    a1(a, 0xFF)
    a1(a, CALL_RAX)
    a1(a, 0x48)  # test rax, rax
    a1(a, 0x85)
    a1(a, 0xC0)
    leave = jcc(a, CC_E)
    gs_store(a, H_RAX, field_of(cython.address(fields.resume)))
    _go_on(a, fields, load_vectors)
    bind_here(a, leave)
    gs_op(a, 0x8B, H_RAX, field_of(cython.address(fields.status)), 0)
    lea(a, 4, 4, R_NONE, 0, 8, 8)
    for n in range(6):
        if SAVED[5 - n] & 8:
            a1(a, 0x41)
        a1(a, 0x58 | SAVED[5 - n] & 7)
    a1(a, 0xC3)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _load_gs(a: cython.pointer(Asm)) -> cython.void:
    """wrgsbase rdi; ret"""
    a4(a, 0xAE0F48F3)
    a1(a, 0xDF)
    a1(a, 0xC3)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _keep(tr: cython.pointer(Translator)) -> u64:
    """Copy what was written to code memory; its host address, 0 if it does not fit."""
    a: cython.pointer(Asm) = cython.address(tr.asm_)
    if a.overflow:
        return 0
    return cython.cast(u64, code_add(tr.mem, cython.address(a.bytes[0]), a.size))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _start(tr: cython.pointer(Translator)) -> cython.pointer(Asm):
    a: cython.pointer(Asm) = cython.address(tr.asm_)
    asm_start(a, cython.cast(u64, tr.mem.run) + tr.mem.used)
    return a


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _miss(a: cython.pointer(Asm), call_site: u64) -> cython.void:
    """Calls site 0."""
    call_host(a, call_site)
    a4(a, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _joined(a: cython.pointer(Asm), fields: cython.pointer(Cpu), n: u32) -> cython.void:
    """Copy the CROSS_SIZE bytes at S1 to part n of Cpu.crossed, through rdx."""
    k: u32
    for k in range(CROSS_SIZE // 8):
        load_at(a, H_RDX, S1, 8 * k)
        gs_store(a, H_RDX, field_of(cython.address(fields.crossed[0])) + CROSS_SIZE * n + 8 * k)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _crossing(a: cython.pointer(Asm), fields: cython.pointer(Cpu)) -> u32:
    """Join the end of S0's page and the start of the next one; S1 = where that is, minus where the
    guest has it, and ZF clear. ZF set: a page is not in the table. The offset of that way out."""
    first: u32
    second: u32
    fail: u32
    a1(a, 0x50)  # push rax; push rdx
    a1(a, 0x52)
    mov_rr(a, H_RAX, S0)
    a1(a, 0x48)  # or rax, 4095
    a1(a, 0x0D)
    a4(a, 0xFFF)
    look_up(a, H_RAX, 0)
    first = jcc(a, CC_E)
    lea(a, S1, H_RAX, S1, 0, cython.cast(u32, 1 - CROSS_SIZE), 8)
    _joined(a, fields, 0)
    lea(a, H_RAX, H_RAX, R_NONE, 0, 1, 8)
    look_up(a, H_RAX, 0)
    second = jcc(a, CC_E)
    lea(a, S1, H_RAX, S1, 0, 0, 8)
    _joined(a, fields, 1)
    gs_load(a, S1, field_of(cython.address(fields.self)))
    lea(a, S1, S1, R_NONE, 0, field_of(cython.address(fields.crossed[0])) + CROSS_SIZE, 8)
    a1(a, 0x49)  # sub S1, rax
    a1(a, 0x29)
    a1(a, 0xC0 | S1 & 7)
    a1(a, 0x5A)  # pop rdx; pop rax
    a1(a, 0x58)
    a1(a, 0x4D)  # test S1, S1
    a1(a, 0x85)
    a1(a, 0xD2)
    a1(a, 0xC3)
    bind_here(a, first)
    bind_here(a, second)
    fail = a.size
    a1(a, 0x5A)
    a1(a, 0x58)
    a1(a, 0x45)  # xor S1d, S1d
    a1(a, 0x31)
    a1(a, 0xD2)
    a1(a, 0xC3)
    return fail


def stubs_write(tr, handler):
    """See stubs.pxd. 0, or -1 when code memory is too small."""
    fields: cython.pointer(Cpu) = cython.NULL
    _load_gs(_start(tr))
    tr.load_gs = _keep(tr)
    _load_vectors(_start(tr), fields)
    tr.load_vectors = _keep(tr)
    _enter(_start(tr), fields, tr.load_vectors)
    tr.enter = _keep(tr)
    _call_site(_start(tr), fields, cython.cast(u64, handler), tr.load_vectors)
    tr.call_site = _keep(tr)
    _miss(_start(tr), tr.call_site)
    tr.miss = _keep(tr)
    fail: u32 = _crossing(_start(tr), fields)
    tr.crossing_end = cython.cast(u64, tr.asm_.size)
    tr.crossing = _keep(tr)
    tr.crossing_fail = tr.crossing + fail
    tr.crossing_end += tr.crossing
    tr.stub_bytes = cython.cast(u32, tr.mem.used)
    # Pieces are kept in turn: if one did not fit, the last did not either.
    return 0 if tr.crossing else -1
