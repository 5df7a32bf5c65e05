"""The gdb server: framing, registers, packets against a machine with no CPU, and its sockets."""

from __future__ import annotations

import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from barevisor.board.machine import Machine
from barevisor.config import GdbListen
from barevisor.cpu.engine import (
    Breakpoint,
    CpuState,
    DebugStop,
    Exit,
    GuestDebug,
    MachineSpec,
    Shutdown,
    Watchpoint,
)
from barevisor.debug.gdb import packets
from barevisor.debug.gdb.features import description
from barevisor.debug.gdb.packets import Framer, Packet, PacketError, ProtocolError
from barevisor.debug.gdb.registers import ALL_BYTES, REGISTERS, Register, full_tags
from barevisor.debug.gdb.server import GdbServer
from barevisor.debug.gdb.session import Session
from barevisor.debug.target import Ended, Event, MachineTarget, Stopped
from barevisor.errors import EngineError, HostError
from barevisor.testing.fake_engine import FakeEngine, FakeVcpu, FakeVm

pytestmark = pytest.mark.timeout(30)
MEMORY = 1 << 20


# ---- packets -----------------------------------------------------------------------------


@pytest.mark.parametrize(("raw", "tokens"), [
    pytest.param(b"$g#67", [Packet(b"g")], id="a packet"),
    pytest.param(b"+$g#67-", ["ack", Packet(b"g"), "nack"], id="acks around it"),
    pytest.param(b"\x03", ["interrupt"], id="interrupt"),
    pytest.param(b"$g#68", [Packet(b"g", False)], id="wrong checksum"),
    pytest.param(b"$g#zz", [Packet(b"g", False)], id="checksum that is no number"),
    pytest.param(b"$X}\x03}]#7d", [Packet(b"X#}", False)], id="escapes are undone"),
    pytest.param(b"noise\r\n$#00", [Packet(b"")], id="noise and an empty packet"),
    pytest.param(b"$g#6", [], id="not all here"),
    pytest.param(b"$$#24", [Packet(b"$")], id="a dollar inside"),
])  # fmt: skip
def test_framing(raw: bytes, tokens: list[object]) -> None:
    assert list(Framer().feed(raw)) == tokens
    framer = Framer()
    assert [t for n in range(len(raw)) for t in framer.feed(raw[n : n + 1])] == tokens


def test_a_packet_has_a_limit() -> None:
    framer = Framer()
    assert list(framer.feed(b"$" + b"a" * packets.PACKET_SIZE)) == []
    with pytest.raises(ProtocolError):
        list(framer.feed(b"aa"))


def test_what_is_encoded_comes_back() -> None:
    text = bytes(range(256))
    assert list(Framer().feed(packets.encode(text))) == [Packet(text)]


@pytest.mark.parametrize("text", [b"", b"-1", b"0x10", b"1" * 17, b"g", b" 1", b"1_0", b"\xff"])
def test_what_is_no_number(text: bytes) -> None:
    with pytest.raises(PacketError):
        packets.number(text)


# ---- registers ---------------------------------------------------------------------------


def test_description_is_the_table() -> None:
    tree = ElementTree.fromstring(description())
    described = [(r.get("name"), int(r.get("bitsize", "0"))) for r in tree.iter("reg")]
    assert described == [(r.name, r.bits) for r in REGISTERS]
    core = {"rax", "rip", "eflags", "cs", "st7", "fop"}
    assert core <= {r.get("name") for r in tree.find("feature") or ()}


@pytest.mark.parametrize("register", REGISTERS, ids=[r.name for r in REGISTERS])
def test_every_register_is_stored_where_it_is_read(register: Register) -> None:
    state = CpuState()
    before = {r.name: r.get(state) for r in REGISTERS}
    value = {"ftag": 0xFFFF & ~3, "fctrl": 0x27F}.get(register.name, 0x1234)
    register.put(state, value)
    got = register.get(state)
    assert got == (0xFFFD if register.name == "ftag" else value)
    after = {r.name: r.get(state) for r in REGISTERS if r.name not in (register.name, "ftag")}
    before.pop(register.name)
    before.pop("ftag", None)
    assert after == before


def test_initial_values_of_an_empty_xsave_image() -> None:
    state = CpuState()
    value = {r.name: r.get(state) for r in REGISTERS}
    assert (value["fctrl"], value["mxcsr"], value["ftag"], value["xmm0"]) == (
        0x37F, 0x1F80, 0xFFFF, 0,
    )  # fmt: skip


@pytest.mark.parametrize(("raw", "tag"), [
    (struct.pack("<QH", 1 << 63, 0x3FFF), 0), (bytes(10), 1),
    (struct.pack("<QH", 1 << 63, 0x7FFF), 2), (struct.pack("<QH", 1, 0), 2),
], ids=["valid", "zero", "infinity", "denormal"])  # fmt: skip
def test_tag_word_is_made_of_contents(raw: bytes, tag: int) -> None:
    image = bytearray(512)
    image[2:4] = (6 << 11).to_bytes(2, "little")  # TOP: physical 6 is ST0
    image[4] = 1 << 6
    image[32:42] = raw
    assert full_tags(image) == 0xFFFF & ~(3 << 12) | tag << 12


# ---- a session ---------------------------------------------------------------------------


class Rig:
    """A session over a machine of fake vCPUs, each with a script of exits."""

    def __init__(self, *scripts: list[Exit]) -> None:
        self.engine = FakeEngine(*[list(s) for s in scripts])
        spec = MachineSpec(cpus=max(len(scripts), 1))
        self.machine = Machine(self.engine, spec, MEMORY)
        self.target = MachineTarget(self.machine)
        self.happened: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.target.listen(self.happened.put)
        self.machine.start(paused=True)
        assert self.target.stop()
        self.session = Session(self.target)

    @property
    def vm(self) -> FakeVm:
        assert self.engine.vm is not None
        return self.engine.vm

    def vcpu(self, n: int = 0) -> FakeVcpu:
        vcpu = self.machine.vcpus[n]
        assert isinstance(vcpu, FakeVcpu)
        return vcpu

    def __call__(self, text: bytes) -> bytes | None:
        return self.session.handle(text)

    def wait(self) -> bytes | None:
        """The reply to the next thing that happens."""
        return self.session.events([self.happened.get(timeout=5)])


MakeRig = Callable[..., Rig]


@pytest.fixture
def rig() -> Iterator[MakeRig]:
    made: list[Rig] = []

    def make(*scripts: list[Exit]) -> Rig:
        made.append(Rig(*scripts))
        return made[-1]

    yield make
    for one in made:
        one.machine.close()


REPLIES = [
    (b"?", b"T05thread:1;"),
    (b"qSupported:swbreak+;xmlRegisters=i386", b"PacketSize=4000;QStartNoAckMode+;"
     b"qXfer:features:read+;vContSupported+;swbreak+;hwbreak+"),
    (b"vMustReplyEmpty", b""), (b"qTStatus", b""), (b"!", b""), (b"\xff\x00", b""), (b"", b""),
    (b"qC", b"QC1"), (b"qAttached", b"1"), (b"qAttached:1", b"1"), (b"qSymbol::", b"OK"),
    (b"qfThreadInfo", b"m1,2"), (b"qsThreadInfo", b"l"),
    (b"qThreadExtraInfo,1", b"vCPU 0, runnable, CPL 0".hex().encode()),
    (b"qThreadExtraInfo,9", b"E16"),
    (b"T1", b"OK"), (b"T2", b"OK"), (b"T3", b"E16"), (b"Tzz", b"E16"),
    (b"Hg2", b"OK"), (b"Hg0", b"OK"), (b"Hc-1", b"OK"), (b"Hx1", b"E16"), (b"H", b"E16"),
    (b"p0", bytes(8).hex().encode()), (b"pff", b"E16"), (b"p", b"E16"),
    (b"P0=0102030405060708", b"OK"), (b"P0=01", b"E16"), (b"P0", b"E16"), (b"Pff=00", b"E16"),
    (b"G00", b"E16"), (b"Gzz", b"E16"),
    (b"m1000,4", b"00000000"), (b"m1000,0", b""), (b"mffff0000,4", b"E0e"), (b"m1", b"E16"),
    (b"m100000000,1", b"E0e"), (b"mffffffffffffffff,10", b"E0e"), (b"m1000,-1", b"E16"),
    (b"M1000,2:abcd", b"OK"), (b"M1000,2:ab", b"E16"), (b"M1000,2:zzzz", b"E16"),
    (b"X1000,2:#$", b"OK"), (b"X1000,0:", b"OK"), (b"X1000,3:ab", b"E16"),
    (b"Xffff0000,1:a", b"E0e"), (b"M", b"E16"),
    (b"Z0,1000,1", b"OK"), (b"z0,1000,1", b"OK"), (b"Z1,1000,1;cond", b"OK"),
    (b"Z2,1000,4", b"OK"), (b"Z2,1000,0", b"E16"), (b"Z4,1000,fffff", b"E16"),
    (b"Z5,1000,1", b""), (b"Z0", b"E16"), (b"Z", b""), (b"Z0,x,1", b"E16"),
    (b"Z01,0,1", b"OK"), (b"Z0f,0,1", b"E16"),
    (b"vCont?", b"vCont;c;C;s;S"), (b"vCont", b"E16"), (b"vCont;x", b"E16"), (b"vCont;c:9", b"E16"),
    (b"qXfer:features:read:target.xml:0,4", b"m<?xm"),
    (b"qXfer:features:read:target.xml:ffff,4", b"l"),
    (b"qXfer:features:read:other.xml:0,4", b"E00"), (b"qXfer:features:read:target.xml:0", b"E16"),
    (b"QStartNoAckMode", b"OK"), (b"qRcmd,zz", b"E16"), (b"vCtrlC", b""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reply"), REPLIES, ids=[ascii(t)[2:-1] for t, _ in REPLIES])
def test_reply(rig: MakeRig, text: bytes, reply: bytes) -> None:
    assert rig([], [])(text) == reply


def test_g_has_every_register_and_writes_back(rig: MakeRig) -> None:
    r = rig([])
    raw = r(b"g")
    assert raw is not None
    assert len(raw) == 2 * ALL_BYTES
    assert r(b"G" + (1234).to_bytes(8, "little").hex().encode() + raw[16:]) == b"OK"
    assert r.vcpu().state.regs.rax == 1234
    cr3 = next(n for n, register in enumerate(REGISTERS) if register.name == "cr3")
    assert r(b"P%x=0010000000000000" % cr3) == b"OK"
    assert r.vcpu().state.cr3 == 0x1000


def test_memory_is_written_and_read(rig: MakeRig) -> None:
    r = rig([])
    assert r(b"X1ffe,4:a$b}") == b"OK"
    assert r(b"m1ffe,4") == b"a$b}".hex().encode()
    assert r.machine.ram.read(0x1FFE, 4) == b"a$b}"
    assert r.vm.written[-1] == (0x2000, 2)


def test_a_read_ends_where_memory_ends(rig: MakeRig) -> None:
    assert rig([])(b"m%x,20" % (MEMORY - 4)) == b"00" * 4


def test_monitor_commands(rig: MakeRig) -> None:
    r = rig([], [])
    for words, part in ((b"help", "info registers"), (b"info registers", "RIP:"),
                        (b"info  cpus", "vCPU 1"), (b"reset", "no such command")):  # fmt: skip
        reply = r(b"qRcmd," + words.hex().encode())
        assert reply is not None
        assert part in bytes.fromhex(reply.decode()).decode()


def test_a_breakpoint_is_in_the_guest_while_it_runs(rig: MakeRig) -> None:
    r = rig([DebugStop("breakpoint", 0x1000)])
    r(b"qSupported:swbreak+;hwbreak+")
    assert r(b"Z0,1000,1") == b"OK"
    assert r(b"Z1,2000,1") == b"OK"
    assert r(b"vCont;c") is None
    assert r.vm.debug == GuestDebug((Breakpoint(0x1000), Breakpoint(0x2000, True)))
    assert r.wait() == b"T05thread:1;swbreak:;"
    assert r.vm.debug == GuestDebug()
    assert r(b"?") == b"T05thread:1;swbreak:;"
    assert r(b"D") == b"OK"
    assert r.vm.debug is None
    assert r.session.ended


@pytest.mark.parametrize(("kind", "word"), [(2, b"watch"), (3, b"rwatch"), (4, b"awatch")])
def test_watchpoint_is_told_by_its_address(rig: MakeRig, kind: int, word: bytes) -> None:
    r = rig([DebugStop("watch", 0x3000)])
    assert r(b"Z%x,3000,8" % kind) == b"OK"
    assert r(b"c") is None
    assert r.vm.debug == GuestDebug(
        (),
        (Watchpoint(0x3000, 8, {2: "write", 3: "read", 4: "access"}[kind]),),  # type: ignore[arg-type]
    )
    assert r.wait() == b"T05thread:1;%s:3000;" % word


def test_a_stop_for_what_is_no_longer_set_goes_on(rig: MakeRig) -> None:
    r = rig([DebugStop("breakpoint", 0x1000), DebugStop("breakpoint", 0x2000)])
    r(b"Z0,2000,1")
    r(b"c")
    assert r.wait() is None
    assert r.wait() == b"T05thread:1;"


def test_a_guest_in_which_nothing_is_set_runs_free(rig: MakeRig) -> None:
    r = rig([DebugStop("step", 0x1004)])
    r(b"Z0,2000,1")
    r(b"vCont;s:1")
    assert r.wait() == b"T05thread:1;"
    assert r(b"z0,2000,1") == b"OK"
    assert r.vm.debug == GuestDebug()
    r(b"vCont;c")
    assert r.vm.debug is None


def test_step_one_cpu_and_hold_the_other(rig: MakeRig) -> None:
    r = rig([], [DebugStop("step", 0x1004)])
    ran = threading.Event()
    r.vcpu(0).script = iter([ran.set])
    assert r(b"vCont;s:2") is None
    assert r.wait() == b"T05thread:2;"
    assert r.vcpu(1).stepping is False
    assert not ran.is_set()
    assert r(b"vCont;c:1") is None
    assert ran.wait(5)


def test_step_one_cpu_while_the_other_runs(rig: MakeRig) -> None:
    ran = threading.Event()
    r = rig([DebugStop("step", 0x1004)], [])
    r.vcpu(1).script = iter([ran.set])
    assert r(b"vCont;s:1;c") is None
    assert r.wait() == b"T05thread:1;"
    assert r.happened.empty()


def test_interrupt_stops_all(rig: MakeRig) -> None:
    r = rig([], [])
    r(b"c")
    r.session.interrupt()
    assert r.session.events([]) == b"T02thread:1;"
    assert not r.session.running
    r.session.interrupt()  # stopped already: nothing to tell
    assert r.session.events([]) is None


def test_a_triple_fault_can_be_looked_at_before_it_is_the_end(rig: MakeRig) -> None:
    r = rig([Shutdown()])
    r(b"c")
    assert r.wait() == b"T0bthread:1;"
    assert r(b"p0") == b"00" * 8
    assert r(b"c") is None
    assert r.wait() == b"X06"
    assert r.session.ended


def test_a_watch_hit_on_another_cpu_is_told_next(rig: MakeRig) -> None:
    r = rig([], [])
    r(b"Z2,3000,4")
    r(b"Z0,1000,1")
    r(b"c")
    both: list[Event] = [Stopped(0, DebugStop("breakpoint", 0x1000)),
                         Stopped(1, DebugStop("watch", 0x3000))]  # fmt: skip
    assert r.session.events(both) == b"T05thread:1;"
    assert r(b"c") is None
    assert r.session.events([]) == b"T05thread:2;watch:3000;"


def test_the_end_is_told_once(rig: MakeRig) -> None:
    r = rig([])
    r(b"c")
    assert r.session.events([Ended(True)]) == b"W00"
    assert r.session.events([Ended(True)]) is None


def test_kill_ends_the_machine(rig: MakeRig) -> None:
    r = rig([])
    assert r(b"k") is None
    outcome = r.machine.wait(5)
    assert outcome is not None
    assert outcome.kind == "stopped"


def test_a_refused_breakpoint_leaves_the_others(
    rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = rig([])
    assert r(b"Z1,1000,1") == b"OK"

    def refuse(self: FakeVm, debug: GuestDebug | None) -> None:
        if debug is not None and len(debug.breakpoints) > 1:
            raise EngineError("no room")
        self.debug = debug

    monkeypatch.setattr(FakeVm, "set_debug", refuse)
    assert r(b"Z1,2000,1") == b"E0e"
    assert r(b"c") is None
    assert r.vm.debug == GuestDebug((Breakpoint(0x1000, True),))


def test_a_client_may_set_only_so_many(rig: MakeRig) -> None:
    r = rig([])
    for n in range(1024):
        r.session._points.insert(b"0,%x,1" % n)
    assert r(b"Z0,ffff,1") == b"E1c"


# ---- sockets -----------------------------------------------------------------------------


ENDLESS = b"$" + b"a" * (packets.PACKET_SIZE + 8)


class Peer:
    """A client's end."""

    def __init__(self, path: str, opened: list[socket.socket]) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        opened.append(self.socket)
        self.socket.settimeout(5)
        self.socket.connect(path)

    def send(self, raw: bytes) -> None:
        self.socket.sendall(raw)

    def ask(self, text: bytes) -> bytes:
        self.send(packets.encode(text))
        return self.until(b"#")

    def until(self, end: bytes) -> bytes:
        got = b""
        while end not in got:
            more = self.socket.recv(1 if end != b"#" else 4096)
            if not more:
                break
            got += more
        return got

    def hung_up(self) -> bool:
        """Read until the server has hung up. Raises TimeoutError."""
        with suppress(ConnectionError):
            while self.socket.recv(4096):
                pass
        return True


@dataclass
class Served:
    """A running machine, its server, and the clients that a test makes."""

    machine: Machine
    server: GdbServer
    opened: list[socket.socket]

    def connect(self) -> Peer:
        return Peer(self.server.address, self.opened)

    def runs(self) -> bool:
        return self.machine._want == "run"

    def resumes(self) -> bool:
        """Whether it runs within seconds: nobody is told when."""
        end = time.monotonic() + 5
        while not self.runs() and time.monotonic() < end:
            time.sleep(0.01)
        return self.runs()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    machine = Machine(FakeEngine([]), MachineSpec(), MEMORY)
    server = GdbServer(MachineTarget(machine), GdbListen(path=str(tmp_path / "gdb")))
    machine.on_close.append(server.close)
    server.start()
    machine.start()
    served = Served(machine, server, [])
    yield served
    machine.close()
    for one in served.opened:
        one.close()
    assert not (tmp_path / "gdb").exists()


def test_who_only_connects_changes_nothing(served: Served) -> None:
    for _ in range(2):
        peer = served.connect()
        peer.send(b"GET / HTTP/1.0\r\n\r\n")
        peer.socket.close()
    last = served.connect()
    last.send(ENDLESS)
    assert last.hung_up()  # so the two before were listened to
    assert served.runs()


def test_a_dialogue_with_acks_and_without(served: Served) -> None:
    peer = served.connect()
    assert peer.ask(b"qC").startswith(b"+$QC1#")
    assert not served.runs()
    peer.send(b"$qC#00")
    assert peer.socket.recv(16) == b"-"
    peer.send(b"-")
    assert peer.until(b"#").startswith(b"$QC1#")
    assert b"+$OK#" in peer.ask(b"QStartNoAckMode")
    peer.send(b"+")
    assert peer.ask(b"m0,1").startswith(b"$00#")
    assert peer.ask(b"D").startswith(b"$OK#")
    assert peer.socket.recv(16) in (b"", b"9a")
    assert served.resumes()


def test_a_stopped_guest_waits_for_the_next_client(served: Served) -> None:
    first = served.connect()
    assert b"OK" in first.ask(b"Z0,1000,1")
    first.socket.close()
    assert b"QC1" in served.connect().ask(b"qC")
    assert not served.runs()


def test_what_a_client_said_last_is_heard(served: Served) -> None:
    first = served.connect()
    first.ask(b"QStartNoAckMode")
    first.send(packets.encode(b"D"))
    first.socket.close()
    served.connect()
    assert served.resumes()


def test_a_second_client_is_turned_away(served: Served) -> None:
    first = served.connect()
    first.ask(b"qC")
    assert served.connect().socket.recv(1) == b""
    assert b"QC1" in first.ask(b"qC")


@pytest.mark.parametrize("raw", [
    pytest.param(ENDLESS, id="endless packet"),
    pytest.param(b"$QStartNoAckMode#b0" + packets.encode(b"c") + packets.encode(b"g") * 200,
                 id="packets while it runs"),
])  # fmt: skip
def test_a_hostile_client_is_hung_up_on(served: Served, raw: bytes) -> None:
    peer = served.connect()
    peer.send(raw)
    assert peer.hung_up()
    assert served.connect().socket.fileno() >= 0


def test_continue_and_interrupt_over_the_socket(served: Served) -> None:
    peer = served.connect()
    peer.ask(b"QStartNoAckMode")
    peer.send(packets.encode(b"vCont;c"))
    peer.send(b"\x03")
    assert b"T02thread:1;#" in peer.until(b";#")
    assert not served.runs()


def test_the_machines_end_reaches_the_client(served: Served) -> None:
    peer = served.connect()
    peer.ask(b"QStartNoAckMode")
    peer.send(packets.encode(b"vCont;c"))
    assert served.resumes()
    served.machine.end("poweroff")
    assert b"$W00#" in peer.until(b"W00#")


def test_port_is_found_and_a_taken_one_is_refused() -> None:
    machine = Machine(FakeEngine([]), MachineSpec(), MEMORY)
    server = GdbServer(MachineTarget(machine), GdbListen())
    host, _, port = server.address.rpartition(":")
    assert host == "127.0.0.1"
    with pytest.raises(HostError, match="Address already in use"):
        GdbServer(MachineTarget(machine), GdbListen(port=int(port)))
    server.close()
    machine.close()


def test_a_dead_socket_file_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "gdb")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)
    dead.close()
    machine = Machine(FakeEngine([]), MachineSpec(), MEMORY)
    server = GdbServer(MachineTarget(machine), GdbListen(path=path))
    with pytest.raises(HostError):
        GdbServer(MachineTarget(machine), GdbListen(path=path))
    assert Path(path).stat().st_mode & 0o077 == 0
    server.close()
    machine.close()
