# The 8259A pair with the chipset's edge/level registers. Behind a spin lock: devices raise lines
# from any thread, and a vCPU acknowledges without the GIL.
from barevisor.cpu.bt.state cimport *

cdef void pic_reset(Vm* vm) noexcept nogil
cdef void pic_line(Vm* vm, u32 irq, u32 level) noexcept nogil
# The INTA cycle: the vector (a spurious one when nothing is pending any more).
cdef int pic_ack(Vm* vm) noexcept nogil
cdef u32 pic_read(Vm* vm, u32 port) noexcept nogil
cdef void pic_write(Vm* vm, u32 port, u32 value) noexcept nogil

# --- inside pic.py
cdef void lock(Vm* vm) noexcept nogil
cdef void unlock(Vm* vm) noexcept nogil
cdef void reset_one(Pic* p) noexcept nogil
cdef int best(Pic* p, u32 bits) noexcept nogil
cdef int request(Pic* p, int is_master) noexcept nogil
cdef int settle(Vm* vm) noexcept nogil
cdef void set_line(Pic* p, u32 irq, u32 level) noexcept nogil
cdef void take(Pic* p, u32 irq) noexcept nogil
cdef void end(Pic* p, u32 command, u32 irq) noexcept nogil
cdef void write_command(Pic* p, u32 value) noexcept nogil
cdef void write_data(Pic* p, u32 value) noexcept nogil
cdef u32 read_chip(Pic* p, int is_master, u32 data) noexcept nogil
