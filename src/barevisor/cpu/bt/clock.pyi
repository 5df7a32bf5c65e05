def sample() -> tuple[int, int]:
    """(TSC, CLOCK_MONOTONIC_RAW in ns) of one moment."""

def tsc_khz(since: tuple[int, int]) -> int:
    """The TSC's rate; blocks until `since` (a sample) is 10 ms old where it must be measured."""

def tsc_rates(host_khz: int, khz: int) -> tuple[int, int]:
    """khz / host_khz and the reverse, both rounded so that no timer is early, in 2^-48."""

def clock_scale(khz: int) -> tuple[int, int]:
    """(mul, shift) of struct pvclock_vcpu_time_info."""
