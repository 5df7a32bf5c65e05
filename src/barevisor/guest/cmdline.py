"""The kernel's command line: one row a parameter, with the reason.

The kernel is a stock one, so what it would probe, calibrate or test for real hardware is
answered or turned off here. Names: Linux Documentation/admin-guide/kernel-parameters.txt, 6.1.
The guest serves one user's command, so what defends one user of a machine from another
(mitigations, hardening of allocations) only costs; the host's own protection is the VM.
"""

from __future__ import annotations

BLACKLIST = "initcall_blacklist="

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
    ("lsm=capability", "no policy is loaded, so the other security modules only build tables"),
    ("mitigations=off", "one user's command is all that runs: see above"),
    ("init_on_alloc=0", "fresh guest memory is zero already"),
    ("hardened_usercopy=off", "see above"),
    ("randomize_kstack_offset=off", "see above"),
    ("swiotlb=noforce", "every device reaches all memory: no bounce buffer of 64 MiB"),
    ("cgroup_disable=memory", "one workload: its memory limit is the machine's"),
)
UNCALLED = (
    ("tracer_init_tracefs", "two thousand tracing events as ten thousand files"),
    ("trace_eval_init", "the names of enums in the formats of those events"),
    ("ftrace_check_for_weak_functions", "a symbol look-up for each of forty thousand functions"),
    ("slab_sysfs_init", "a folder of statistics for each of two hundred caches"),
    # The first to run parses the type information of the whole kernel, 5 MB of it:
    ("btf_module_init", "types of modules, for BPF programs"),
    ("bpf_rstat_kfunc_init", "functions for BPF programs"),
    ("bpf_key_sig_kfuncs_init", "the same"),
    ("kfunc_init", "the same"),
    ("bpf_prog_test_run_init", "the same"),
    ("bpf_tcp_ca_kfunc_init", "the same"),
    ("cubictcp_register", "the same; without a network card TCP does as well with reno"),
)
"""Start-up functions of a 6.1 kernel that only serve the kernel's own tracing, and BPF programs
that hook into it: half of all instructions of a start. A kernel that lacks one ignores its name."""
ECAM = (("pci=noearly", "no look at 32 slots for chipsets with bugs, through ports not there"),)
QUIET = (
    ("quiet", "messages are not formatted and sent byte by byte"),
    ("loglevel=3", "nor are errors: one that kills the guest raises the level, all are in dmesg"),
)
VERBOSE = (
    ("ignore_loglevel", "all messages, for --boot-log"),
    ("printk.time=1", "with their times"),
)


def kernel_command_line(*, verbose: bool = False, append: str = "", ecam: bool = False) -> str:
    """All parameters; `ecam`: PCI is in memory only. `append` comes last, so that it wins. The
    kernel adds up what initcall_blacklist says, so one in `append` replaces ours:
    "initcall_blacklist=none" gives a guest whose kernel can be traced."""
    words = append.split()
    # First: an early console prints what there is by the level that holds when it is named.
    rows = (VERBOSE if verbose else QUIET) + ALWAYS + (ECAM if ecam else ())
    if not any(word.startswith(BLACKLIST) for word in words):
        rows += ((BLACKLIST + ",".join(name for name, _ in UNCALLED), "see UNCALLED"),)
    return " ".join([*(name for name, _ in rows), *words])
