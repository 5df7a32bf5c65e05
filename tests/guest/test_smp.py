"""Stock Linux on several CPUs of the software engine: all are used, all sleep, all stop."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from barevisor import GuestTimeout, Vm
from barevisor.testing.pace import SLOWER

pytestmark = pytest.mark.several_cpus
SOON = 90.0 * SLOWER
HOST_PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable

STRESS = r"""
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { THREADS = 4, ROUNDS = 4000, PAGES = 32 };
static atomic_long counted, swapped;
static long guarded;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int shared_value, stop;
static unsigned char *shared_code;

static void bad(const char *what) { printf("bad %s\n", what); exit(1); }

static void *counters(void *unused) {
    for (int i = 0; i < ROUNDS; i++) {
        atomic_fetch_add(&counted, 1);
        pthread_mutex_lock(&mutex); guarded++; pthread_mutex_unlock(&mutex);
        long seen = atomic_load(&swapped);
        while (!atomic_compare_exchange_weak(&swapped, &seen, seen + 1)) ;
    }
    return unused;
}

static void *maps(void *unused) {  /* shoots down the other CPUs' TLBs */
    for (int i = 0; i < 30; i++) {
        char *p = mmap(0, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        int sum = 0;
        for (int n = 0; n < PAGES; n++) p[n * 4096] = n;
        mprotect(p, PAGES * 4096, PROT_READ);
        for (int n = 0; n < PAGES; n++) sum += p[n * 4096];
        if (sum != PAGES * (PAGES - 1) / 2) bad("page");
        munmap(p, PAGES * 4096);
    }
    return unused;
}

static void *own_code(void *unused) {
    unsigned char *p = mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < ROUNDS; i++) {
        p[0] = 0xb8; memcpy(p + 1, &i, 4); p[5] = 0xc3;
        if (((int (*)(void))p)() != i) bad("code of its own");
    }
    return unused;
}

static void *others_code(void *writes) {
    if (writes) {
        for (int i = 1; i < ROUNDS; i++) {
            atomic_store((_Atomic int *)(shared_code + 4), i);
            atomic_store(&shared_value, i);
        }
        atomic_store(&stop, 1);
    }
    while (!atomic_load(&stop)) {
        int least = atomic_load(&shared_value);
        if (((int (*)(void))shared_code)() < least) bad("code of another");
    }
    return writes;
}

static void all(void *(*work)(void *)) {
    pthread_t threads[THREADS];
    for (long n = 0; n < THREADS; n++) pthread_create(&threads[n], 0, work, (void *)(n == 0));
    for (int n = 0; n < THREADS; n++) pthread_join(threads[n], 0);
}

int main(void) {
    all(counters);
    if (counted != THREADS * ROUNDS || guarded != counted || swapped != counted) bad("counter");
    all(maps);
    all(own_code);
    shared_code = mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(shared_code, "\x90\x90\x90\xb8\0\0\0\0\xc3", 9);
    all(others_code);
    puts("ok");
    return 0;
}
"""


@pytest.fixture(scope="module", params=[2, 4], ids=["2-cpus", "4-cpus"])
def smp(request: pytest.FixtureRequest, kernel: None) -> Iterator[Vm]:
    with Vm(cpus=request.param, engine="bt") as vm:
        yield vm


def cpus(vm: Vm) -> int:
    return vm.config.cpus


def test_linux_finds_all_cpus(smp: Vm) -> None:
    assert smp.run(["nproc"], timeout=SOON).stdout == b"%d\n" % cpus(smp)
    online = smp.run(["cat", "/sys/devices/system/cpu/online"], timeout=SOON).stdout
    assert online == b"0-%d\n" % (cpus(smp) - 1)


def test_each_cpu_runs_what_is_put_on_it(smp: Vm) -> None:
    script = "import os; print(open('/proc/self/stat').read().rsplit(')', 1)[1].split()[36])"
    for cpu in range(cpus(smp)):
        words = ["taskset", "-c", str(cpu), HOST_PYTHON, "-c", script]
        assert smp.run(words, timeout=SOON).stdout == b"%d\n" % cpu


def test_processes_side_by_side(smp: Vm) -> None:
    script = (
        "from multiprocessing import Pool\n"
        "def f(n): return sum(i * i for i in range(n * 1000))\n"
        "if __name__ == '__main__':\n"
        "    with Pool(4) as pool: print(sum(pool.map(f, range(24))))\n"
    )
    expected = sum(i * i for n in range(24) for i in range(n * 1000))
    done = smp.run([HOST_PYTHON, "-c", script], timeout=SOON)
    assert (done.stdout, done.stderr) == (b"%d\n" % expected, b"")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_threads_share_memory_and_code(smp: Vm, tmp_path: Path) -> None:
    source, program = tmp_path / "stress.c", tmp_path / "stress"
    source.write_text(STRESS)
    subprocess.run(["gcc", "-O2", "-pthread", "-o", program, source], check=True)
    done = smp.run([str(program)], timeout=SOON)
    assert (done.stdout, done.returncode) == (b"ok\n", 0)


def test_idle_cpus_sleep(smp: Vm) -> None:
    smp.run(["true"], timeout=SOON)
    time.sleep(0.5)
    before = time.process_time()
    time.sleep(2.0)
    assert time.process_time() - before < 0.1 * cpus(smp)


def test_busy_cpus_stop(smp: Vm) -> None:
    script = "for n in 1 2 3 4; do while :; do :; done & done; wait"
    with pytest.raises(GuestTimeout):
        smp.run(["sh", "-c", script], timeout=1.0)
    assert smp.run(["true"], timeout=SOON).returncode == 0


def test_a_report_of_busy_cpus(smp: Vm) -> None:
    with smp.popen(["sh", "-c", "while :; do :; done"]) as busy:
        assert smp.report().count("RIP:") == cpus(smp)
        busy.kill()
    assert smp.run(["true"], timeout=SOON).returncode == 0


def test_nothing_is_left_of_a_guest_with_busy_cpus(kernel: None) -> None:
    before = set(threading.enumerate())
    with Vm(cpus=4, engine="bt") as vm:
        for _ in range(4):
            vm.popen(["sh", "-c", "while :; do :; done"])
    assert set(threading.enumerate()) == before
