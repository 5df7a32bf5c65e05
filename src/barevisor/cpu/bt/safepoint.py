"""The threads of one VM: the lock over its code, and how one CPU makes the others stand still.

Every vCPU runs on a thread of its own, without the GIL, over one block cache (ADR 12). Three ways
to be safe from the others, from cheap to dear:

- `vm_lock`: blocks are made, killed and entered into lists by its holder only. Looking a block up
  takes no lock.
- `wait_quiet`: each other CPU has come to the end of the instruction that it was in. Needed when a
  right is taken away (a TLB entry's) that an instruction may have checked and not yet used.
- `stop_others`: nobody else is in a block. Needed before the memory of blocks is used again.

A CPU says where it is in cpu.guest. GUEST_OUT: it holds no pointer to a block and no checked TLB
entry. GUEST_BLOCKED: it waits for the lock, perhaps in the middle of a block, but no store of its
own is under way, so the lock's holder need not wait for it. What it is asked for stands in
cpu.attention; it looks between blocks once cpu.urgent is set. Each question is a full barrier
before the asker looks at cpu.guest, and each change of cpu.guest is one before the CPU looks
whether it is asked: one of both always sees the other.
"""

import cython
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.posix.unistd import getpid

FOREVER = cython.declare("u32", 0x7FFFFFFF)
MINUS_ONE = cython.declare("u32", 0xFFFFFFFF)
SPINS = cython.declare("u32", 300)
WAIT_NS = cython.declare("i64", 10_000_000)
"""A bound on each sleep, so that a lost wake-up would cost time and not the VM."""


def threads_init(vm):
    vm.lock = calloc(1, cython.sizeof(pthread_mutex_t))
    vm.stop_lock = calloc(1, cython.sizeof(pthread_mutex_t))
    if vm.lock == cython.NULL or vm.stop_lock == cython.NULL:
        return -1
    pthread_mutex_init(cython.cast(cython.pointer(pthread_mutex_t), vm.lock), cython.NULL)
    pthread_mutex_init(cython.cast(cython.pointer(pthread_mutex_t), vm.stop_lock), cython.NULL)
    return 0


def threads_free(vm):
    if vm.lock != cython.NULL:
        pthread_mutex_destroy(cython.cast(cython.pointer(pthread_mutex_t), vm.lock))
    if vm.stop_lock != cython.NULL:
        pthread_mutex_destroy(cython.cast(cython.pointer(pthread_mutex_t), vm.stop_lock))
    free(vm.lock)
    free(vm.stop_lock)
    vm.lock = cython.NULL
    vm.stop_lock = cython.NULL


# ---- sleeping --------------------------------------------------------------------------------


def futex_wait(at, value):
    limit: timespec
    limit.tv_sec = 0
    limit.tv_nsec = WAIT_NS
    syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, value, cython.address(limit), cython.NULL, 0)


def futex_wake(at):
    syscall(SYS_futex, at, FUTEX_WAKE_PRIVATE, FOREVER, cython.NULL, cython.NULL, 0)


def notify(vm):
    """Somebody's cpu.guest or cpu.attention has changed (with a full barrier)."""
    if load32(cython.address(vm.waiters), SEQ_CST):
        add32(cython.address(vm.turn), 1, SEQ_CST)
        futex_wake(cython.address(vm.turn))


# ---- the lock --------------------------------------------------------------------------------


def vm_lock(vm, cpu):
    lock: cython.pointer(pthread_mutex_t) = cython.cast(cython.pointer(pthread_mutex_t), vm.lock)
    _spins: u32
    for _spins in range(SPINS):
        if pthread_mutex_trylock(lock) == 0:
            return
        cpu_relax()
    if cpu == cython.NULL or cpu.guest != GUEST_IN:
        pthread_mutex_lock(lock)
        return
    swap32(cython.address(cpu.guest), GUEST_BLOCKED, SEQ_CST)
    notify(vm)
    pthread_mutex_lock(lock)
    swap32(cython.address(cpu.guest), GUEST_IN, SEQ_CST)


def vm_unlock(vm):
    pthread_mutex_unlock(cython.cast(cython.pointer(pthread_mutex_t), vm.lock))


# ---- in and out of the guest -----------------------------------------------------------------


def guest_enter(cpu):
    vm: cython.pointer(Vm) = cpu.vm
    while True:
        swap32(cython.address(cpu.guest), GUEST_IN, SEQ_CST)
        if not load32(cython.address(vm.stopping), SEQ_CST):
            return
        guest_leave(cpu)
        while load32(cython.address(vm.stopping), SEQ_CST):
            futex_wait(cython.address(vm.stopping), 1)


def guest_leave(cpu):
    swap32(cython.address(cpu.guest), GUEST_OUT, SEQ_CST)
    notify(cpu.vm)


def guest_poll(cpu):
    # Clear first: who asks from now on sets the bit again.
    and32(cython.address(cpu.attention), ~cython.cast(u32, ATT_QUIET | ATT_STOP), SEQ_CST)
    if load32(cython.address(cpu.vm.stopping), SEQ_CST):
        guest_leave(cpu)
        guest_enter(cpu)
    else:
        notify(cpu.vm)


def ask(cpu, bits):
    or32(cython.address(cpu.attention), bits, SEQ_CST)
    swap64(cython.address(cpu.urgent), -1, SEQ_CST)
    if load32(cython.cast(cython.pointer(u32), cython.address(cpu.user_pid)), SEQ_CST):
        poke(cpu)


def poke(cpu):
    """See safepoint.pxd. By way of its thread, which alone knows that the process is still the same
    one (faults.py)."""
    info: siginfo_t
    memset(cython.address(info), 0, cython.sizeof(siginfo_t))
    info.si_code = SI_QUEUE
    info.si_value = cpu
    syscall(SYS_rt_tgsigqueueinfo, getpid(), cpu.thread, SIGRTMIN + 3, cython.address(info))


# ---- waiting for the others ------------------------------------------------------------------


def busy(cpu, stop):
    """In the guest, and if not asked to `stop` also asked with ATT_QUIET and not yet answered."""
    if stop:
        return load32(cython.address(cpu.guest), SEQ_CST) != GUEST_OUT
    return (
        load32(cython.address(cpu.guest), SEQ_CST) == GUEST_IN
        and load32(cython.address(cpu.attention), SEQ_CST) & ATT_QUIET
    )


def wait_while_busy(vm, other, stop):
    """Spin a little, then sleep until another CPU has left or polled (notify)."""
    spins: u32 = 0
    turn: u32
    while busy(other, stop):
        spins += 1
        if spins < SPINS:
            cpu_relax()
            continue
        turn = load32(cython.address(vm.turn), SEQ_CST)
        add32(cython.address(vm.waiters), 1, SEQ_CST)
        if busy(other, stop):
            futex_wait(cython.address(vm.turn), turn)
        add32(cython.address(vm.waiters), MINUS_ONE, SEQ_CST)


def wait_quiet(cpu, mask):
    vm: cython.pointer(Vm) = cpu.vm
    other: cython.pointer(Cpu)
    i: u32
    for i in range(vm.ncpus):
        other = vm.cpus[i]
        if mask >> i & 1 and other != cython.NULL and other != cpu:
            ask(other, ATT_QUIET)
    for i in range(vm.ncpus):
        other = vm.cpus[i]
        if not mask >> i & 1 or other == cython.NULL or other == cpu:
            continue
        wait_while_busy(vm, other, 0)
        and32(cython.address(other.attention), ~cython.cast(u32, ATT_QUIET), SEQ_CST)


def stop_others(vm, cpu):
    other: cython.pointer(Cpu)
    i: u32
    inside: u32 = GUEST_OUT
    if cpu != cython.NULL:
        cpu.stops += 1
        if cpu.stops > 1 or vm.ncpus == 1:
            return
        inside = cpu.guest
        guest_leave(cpu)
    pthread_mutex_lock(cython.cast(cython.pointer(pthread_mutex_t), vm.stop_lock))
    swap32(cython.address(vm.stopping), 1, SEQ_CST)
    for i in range(vm.ncpus):
        other = vm.cpus[i]
        if other != cython.NULL and other != cpu:
            ask(other, ATT_STOP)
    for i in range(vm.ncpus):
        other = vm.cpus[i]
        if other != cython.NULL and other != cpu:
            wait_while_busy(vm, other, 1)
    if cpu != cython.NULL:
        swap32(cython.address(cpu.guest), inside, SEQ_CST)


def resume_others(vm, cpu):
    if cpu != cython.NULL:
        cpu.stops -= 1
        if cpu.stops or vm.ncpus == 1:
            return
    swap32(cython.address(vm.stopping), 0, SEQ_CST)
    futex_wake(cython.address(vm.stopping))
    pthread_mutex_unlock(cython.cast(cython.pointer(pthread_mutex_t), vm.stop_lock))
