"""The kernel's command line: one row a parameter, with the reason.

The kernel is a stock one, so what it would probe, calibrate or test for real hardware is
answered or turned off here. Names: Linux Documentation/admin-guide/kernel-parameters.txt, 6.1.
The guest serves one user's command, so what defends one user of a machine from another
(mitigations, hardening of allocations) only costs; the host's own protection is the VM.
"""

from __future__ import annotations

ALWAYS = (
    ("console=ttyS0", "errors and panics reach the host, whatever drivers are loaded"),
    ("earlycon=uart8250,io,0x3f8", "the same before the serial driver is up"),
    ("8250.nr_uarts=1", "one serial port is there; three more would be probed"),
    ("panic=-1", "a panic resets at once, which is how the host learns of it"),
    ("tsc=reliable", "the clock needs no watchdog"),
    ("no_timer_check", "the PIT's interrupt is not waited for"),
    ("nowatchdog", "a stopped host must not look like a lock-up, and no perf events are set up"),
    ("random.trust_cpu=on", "RDRAND seeds the generator: nothing waits for entropy"),
    ("cryptomgr.notests", "no self tests of ciphers"),
    ("rcupdate.rcu_expedited=1", "mounts do not wait for grace periods of many milliseconds"),
    ("audit=0", "nobody reads the audit log"),
    ("apparmor=0", "no profiles are loaded, and its own tables need not be built"),
    ("mitigations=off", "one user's command is all that runs: see above"),
    ("init_on_alloc=0", "fresh guest memory is zero already"),
    ("hardened_usercopy=off", "see above"),
    ("randomize_kstack_offset=off", "see above"),
    ("swiotlb=noforce", "every device reaches all memory: no bounce buffer of 64 MiB"),
    ("cgroup_disable=memory", "one workload: its memory limit is the machine's"),
)
QUIET = (("quiet", "only errors are formatted and sent byte by byte"),)
VERBOSE = (
    ("ignore_loglevel", "all messages, for --boot-log"),
    ("printk.time=1", "with their times"),
)


def kernel_command_line(*, verbose: bool = False, append: str = "") -> str:
    """All parameters; `append` comes last, so that it wins."""
    rows = ALWAYS + (VERBOSE if verbose else QUIET)
    return " ".join([*(name for name, _ in rows), *append.split()])
