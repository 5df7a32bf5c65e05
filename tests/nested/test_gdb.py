"""The gdb server on the kvm engine: a Linux guest is stopped, looked at, stepped and let go.

Breakpoints and watchpoints are not here: QEMU's TCG intercepts no INT3 and does not arm a guest's
debug registers. tests/unit/test_kvm_debug.py has what is asked of KVM for them.
"""

from __future__ import annotations

import time
from pathlib import Path

from barevisor import Vm
from barevisor.testing.gdb_client import GdbClient

COUNT = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; echo $i"


def test_a_linux_guest_in_a_debugger(tmp_path: Path) -> None:
    vm = Vm(memory="256M", cpus=2, engine="kvm", gdb=f"unix:{tmp_path / 'gdb'}")
    try:
        vm.boot()
        assert vm.gdb_address is not None
        gdb = GdbClient(vm.gdb_address)
        assert gdb.ask(b"?").startswith(b"T05thread:1;")
        assert gdb.ask(b"qfThreadInfo") == b"m1,2"
        start = gdb.register("rip")
        assert gdb.register("efer") & 0x500 == 0x500
        assert len(gdb.memory(start, 16)) == 16
        assert gdb.ask(b"vCont;s:1").startswith(b"T05thread:1;")
        assert start < gdb.register("rip") <= start + 15
        gdb.send(b"vCont;c")
        vm.wait_ready(200)
        process = vm.popen(
            ["sh", "-c", "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; echo $i"]
        )
        time.sleep(2)
        assert gdb.interrupt().startswith(b"T02thread:")
        stopped = [gdb.ask(b"Hg%x" % n) + b" %x" % gdb.register("rip") for n in (1, 2)]
        time.sleep(0.5)
        again = [gdb.ask(b"Hg%x" % n) + b" %x" % gdb.register("rip") for n in (1, 2)]
        assert stopped == again
        assert gdb.register("cr0") >> 31 == 1
        rsp = gdb.register("rsp")
        assert len(gdb.memory(rsp, 8)) in (0, 8)
        assert gdb.ask(b"D") == b"OK"
        gdb.close()
        out, _ = process.communicate(timeout=200)
        assert out == b"400000\n"
        assert vm.run(["uname"], timeout=60).stdout == b"Linux\n"
    finally:
        vm.stop(sync=False)
