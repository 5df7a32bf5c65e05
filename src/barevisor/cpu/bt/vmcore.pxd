# The C half of a VM: guest memory slots, block cache, interrupt delivery.
from barevisor.cpu.bt.state cimport *
from barevisor.cpu.bt.codemem cimport CodeMemory

cdef enum:
    PAGE_BYTES = 4096
    VM_ARENA = 128 << 20     # Blocks and Ops; reserved, touched as it fills

cdef class VmCore:
    cdef Vm* vm
    cdef CodeMemory code
    cdef readonly object translator  # TranslatorOwner, or None: interpret only
    cdef object level_eoi    # called with a vector
    cdef readonly int ram_fd # the file that guest RAM lies in, or -1
    cdef u32 direct          # Vm.direct, once there is such a file

    cdef void _free_slot(self, Slot* slot)
    cdef void _quiesce(self)
    cdef object _reserve(self, u64 host, u64 size)
    cdef void _unreserve(self, Slot* slot)

cdef void _level_eoi(Vm* vm, u32 vector) noexcept with gil
