"""What a CPU's control state means for decoding and for memory: Cpu.mode and what hangs on it.

Blocks are keyed by Cpu.mode, the fast paths use Cpu.tlb and Cpu.segbase; all three are derived
here and nowhere else. Callers change the architectural state first, then call update_mode.
"""


def update_mode(cpu):
    """Derive mode, mmu_idx, tlb and segbase after a change to CR0, CR4, EFER, XCR0, a segment
    register, CPL, RFLAGS.AC or VM, MXCSR or FCW. MODE_STEP is the dispatcher's own.
    Whoever changes paging also flushes the TLB."""
    mode: u32 = code_mode(cpu) | feature_mode(cpu)
    idx: u32 = MMU_SUPERVISOR
    seg: u32
    if cpu.cpl == 3:
        idx = MMU_USER
    elif cpu.cr4 & CR4_SMAP and cpu.sysflags & FLAG_AC:
        idx = MMU_SUPERVISOR_AC
    cpu.mode = mode
    cpu.mmu_idx = idx
    if (cpu.cpl == 3) != cpu.in_user:
        cpu.in_user = not cpu.in_user
        cpu.entries += not cpu.in_user
        cpu.direct = direct_wanted(cpu) if cpu.in_user else 0
    for seg in range(2):
        cpu.stamps[seg] = (cpu.stamps[seg] | 0xFFFF) ^ 0xFFFF | 0x8000 | cpu.cpl << 12 | mode
    cpu.tlb = cpu.tlbs[idx]
    if idx == MMU_USER and cpu.cr0 & CR0_AM and cpu.sysflags & FLAG_AC:
        # Alignment checks: no hit on the fast path, mmu.py looks at each access.
        cpu.tlb = cpu.tlb_blank
    cpu.itlb = cpu.itlbs[1 if cpu.cpl == 3 else 0]
    for seg in range(6):
        cpu.segbase[seg] = cpu.segs[seg].base
    if mode & MODE_CODE_MASK == MODE_CODE64:
        # SDM, "Segmentation in IA-32e Mode": only FS and GS keep a base.
        for seg in range(4):
            cpu.segbase[seg] = 0
    cpu.segbase[SEG_FLAT] = 0


def code_mode(cpu):
    """Code and stack size, and whether segments count (SDM, "Modes of Operation")."""
    mode: u32 = MODE_LEGACY
    attr: u32 = cpu.segs[SEG_CS].attr
    if not cpu.cr0 & CR0_PE:
        mode |= MODE_REAL
    elif cpu.sysflags & FLAG_VM:
        mode |= MODE_VM86
    elif cpu.efer & EFER_LMA and attr & ATTR_L:
        return MODE_CODE64
    if attr & ATTR_DB:
        mode |= MODE_CODE32
    if cpu.segs[SEG_SS].attr & ATTR_DB:
        mode |= MODE_STACK32
    return mode


def feature_mode(cpu):
    """Which floating-point instructions fault (SDM, "Control Registers" EM, TS, OSFXSR;
    "Enabling the XSAVE Feature Set"), and whether the guest unmasked a numeric exception."""
    mode: u32 = 0
    if (cpu.fcw & 0x3F) != 0x3F or (cpu.mxcsr & 0x1F80) != 0x1F80:
        mode |= MODE_FP_TRAP
    if cpu.cr0 & (CR0_EM | CR0_TS):
        mode |= MODE_NO_X87
    if cpu.cr0 & CR0_TS:
        mode |= MODE_NO_SSE
    if cpu.cr0 & CR0_EM or not cpu.cr4 & CR4_OSFXSR:
        mode |= MODE_UD_SSE
    if (
        not cpu.cr4 & CR4_OSXSAVE
        or (cpu.xcr0 & 6) != 6
        or not cpu.cr0 & CR0_PE
        or cpu.sysflags & FLAG_VM
    ):
        mode |= MODE_UD_AVX
    return mode
