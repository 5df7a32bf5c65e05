"""A bare 64-bit test image through the whole stack: multiboot, the test devices, COM1, the chips.

The image is made here. It does what images for testing hypervisors do before their own business
(32-bit entry, long mode, an IDT in page 0, masked 8259s, APIC off and on, fw_cfg, code for other
CPUs in page 0, x2APIC), then prints a letter for each device that answered as it should.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from barevisor.board import map as board_map
from barevisor.config import ImageConfig
from barevisor.errors import GuestCrash
from barevisor.image_vm import ImageVm
from barevisor.testing import images
from barevisor.testing.asm import assemble
from barevisor.testing.micro import descriptor

pytestmark = pytest.mark.timeout(60)
SEVERAL = pytest.mark.several_cpus
AT, TABLES, STACK = 0x40_0000, 0x48_0000, 0x47_0000
GDT, TSS = TABLES + 0x8000, TABLES + 0x8800
MIB = 1 << 20

START = f"""
    mov [info], ebx
    mov esp, {STACK}
    lgdt [gdtr]
    mov eax, cr4
    bts eax, 5
    mov cr4, eax
    mov eax, {TABLES}
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    bts eax, 8
    wrmsr
    mov eax, cr0
    bts eax, 31
    mov cr0, eax
    jmp 8:start64
    gdtr: dw 0xFF; dd {GDT}
    info: dd 0
    idtr: dw 0xFFF; dq 0
    bits 64
    start64:
    mov eax, 0x10; mov ds, eax; mov es, eax; mov ss, eax; mov fs, eax; mov gs, eax
"""
CHIPS = """
    mov esi, idt; xor edi, edi; mov ecx, 512; rep movsq
    lidt [idtr]
    mov eax, 0x18; ltr ax
    mov al, 0xFF; out 0x21, al; out 0xA1, al
    mov ecx, 0x1B; rdmsr; mov r8d, eax; and eax, 0xFFFFF3FF; wrmsr
    mov eax, r8d; bts eax, 11; wrmsr
    mov ebx, 0xFEE00000; mov dword [rbx+0xF0], 0x1FF
    mov dx, 0x3FB; mov al, 0x80; out dx, al
    mov dx, 0x3F8; mov al, 1; out dx, al
    mov dx, 0x3FB; mov al, 3; out dx, al
    mov dx, 0x3FA; mov al, 0; out dx, al
    mov al, '!'; call put
"""
CONFIGURATION = """
    mov dx, 0x510; mov ax, 5; out dx, ax; mov dx, 0x511; in al, dx; cmp al, 1; jne bad
    in al, dx; test al, al; jne bad
    mov dx, 0x510; mov ax, 3; out dx, ax; mov dx, 0x511; xor r9d, r9d; mov ecx, 8
    size: shl r9, 8; in al, dx; mov r9b, al; dec ecx; jne size
    bswap r9; cmp r9, 0x8000000; jne bad
    mov ebx, [info]; mov eax, [rbx+8]; add eax, 0x400; shl eax, 10; cmp eax, 0x8000000; jne bad
    mov esi, [rbx+16]; name: lodsb; test al, al; je named; cmp al, '/'; je name; call put; jmp name
    named:
    mov ebx, 0xFEE00000; mov dword [rbx+0x300], 0xC4500; mov dword [rbx+0x300], 0xC4600
"""
X2APIC = """
    mov eax, 1; cpuid; bt ecx, 21; jae bad
    mov ecx, 0x1B; rdmsr; bts eax, 10; wrmsr
    mov ecx, 0x80F; mov eax, 0x1FF; xor edx, edx; wrmsr
    sti
    mov ecx, 0x83F; mov eax, 0x41; wrmsr; nop
    cmp r15b, 'A'; jne bad; mov al, r15b; call put
    mov ecx, 0x832; mov eax, 0x42; wrmsr; mov ecx, 0x83E; mov eax, 0xB; wrmsr
    mov ecx, 0x838; mov eax, 500000; wrmsr; hlt
    cmp r15b, 'B'; jne bad; mov al, r15b; call put
    mov ecx, 0x830; mov eax, 0x44400; xor edx, edx; mov r14d, 0; wrmsr
    mov ecx, 0x830; mov eax, 0x400; wrmsr; nop
    cmp r14d, 1; jb bad; mov al, 'N'; call put
"""
LINES = """
    mov edx, 0xFEC00000; mov dword [rdx], 0x2D; mov dword [rdx+16], 0
    mov dword [rdx], 0x2C; mov dword [rdx+16], 0x43
    mov dx, 0x200E; mov al, 1; out dx, al; mov al, 0; out dx, al; nop
    cmp r15b, 'C'; jne bad; mov al, r15b; call put
"""
MEMORY = f"""
    mov dx, 0xE0; mov ax, 0x9999; out dx, ax
    mov edi, 0x7FFFFFE0; mov ecx, 64; rep insb
    mov ebx, 0x7FFFFFFF; mov edi, 0xFF000000
    cmp byte [rbx], 0x99; jne bad; cmp byte [rdi+0x1F], 0x99; jne bad
    cmp byte [rdi+0x20], 0; jne bad
    mov byte [rbx+1], 0x77; mov ax, [rbx]; cmp ax, 0x7799; jne bad
    mov ax, 0x88AA; mov [rbx], ax
    cmp byte [rdi+0xFFF], 0xAA; jne bad; cmp byte [rdi], 0x88; jne bad
    mov rax, rsp; mov esp, 0xFF001000; push 0x55; pop rcx; mov rsp, rax; cmp ecx, 0x55; jne bad
    mov eax, {STACK}; out 0xE4, eax
    mov al, 'M'; call put
    ud2
    cmp r13d, 6; jne bad; mov al, 'U'; call put
    mov eax, 3; mov dx, 0xF4; out dx, eax
    halt: hlt; jmp halt
    bad: mov eax, 0x55; mov dx, 0xF4; out dx, eax
"""
REST = """
    put: push rdx; mov ah, al; mov dx, 0x3FD
    full: in al, dx; test al, 0x20; je full
    mov dx, 0x3F8; mov al, ah; out dx, al; pop rdx; ret
    ud: mov r13d, 6; add qword [rsp], 2; iretq
    nmi: inc r14d; iretq
    irq41: mov r15d, 'A'; jmp eoi
    irq42: mov r15d, 'B'; jmp eoi
    irq43: mov r15d, 'C'
    eoi: push rax; push rcx; push rdx; xor eax, eax; xor edx, edx; mov ecx, 0x80B; wrmsr
    pop rdx; pop rcx; pop rax; iretq
    align 16
    idt: dq 0
"""
GATES = {2: "nmi", 6: "ud", 0x41: "irq41", 0x42: "irq42", 0x43: "irq43"}


def image() -> bytes:
    """An ELF: code with its IDT at the end, page tables for 4 GiB, GDT and TSS.

    2 MiB pages, each at its own address; but the two pages around 2 GiB are both the first one of
    the test memory, so that an access across them reaches two places of one device.
    """
    text = "\n".join((START, CHIPS, CONFIGURATION, X2APIC, LINES, MEMORY, REST))
    code = assemble(text, AT + 12, 32)
    idt = bytearray(4096)
    for vector, label in GATES.items():
        at = code.labels[label]
        struct.pack_into("<HHHH", idt, 16 * vector, at & 0xFFFF, 8, 0x8E00, at >> 16)
    entries = [n << 21 | 0xE7 for n in range(2048)]
    entries[0x3FF], entries[0x400] = TABLES + 0x6007, TABLES + 0x7007
    directories = [TABLES + 0x2000 + n * 0x1000 | 7 for n in range(4)]
    tables = struct.pack("<512Q", TABLES + 0x1000 | 7, *[0] * 511)
    tables += struct.pack("<512Q", *directories, *[0] * 508)
    tables += struct.pack("<2048Q", *entries)
    tables += bytes(4088) + struct.pack("<QQ", *[board_map.TESTDEV_MMIO | 7] * 2)
    gdt = bytes(8) + descriptor(0, 0xFFFFF, 0x9B, 0xA) + descriptor(0, 0xFFFFF, 0x93, 0xC)
    gdt += descriptor(TSS, 0x67, 0x89, 0) + bytes(8)
    body = images.multiboot_header() + code.code[: code.labels["idt"] - AT - 12] + bytes(idt)
    parts = [
        images.Part(AT, body),
        images.Part(TABLES, tables.ljust(0x8000, b"\0") + gdt.ljust(0x1000, b"\0")),
    ]
    return images.elf(parts, AT + 12, bits=32)


def test_a_test_image_finds_what_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(image())
    out = bytearray()
    config = ImageConfig(path, memory=128 * MIB, engine="bt", testdev=True)
    with ImageVm(config, out.extend, out.extend) as vm:
        vm.start()
        code = vm.wait(30)
        report = "" if code is not None else vm.report()
    assert (code, report) == (3 << 1 | 1, ""), out
    assert out.startswith(b"!")
    assert out.endswith(b"ABNCMU")


def test_a_bzimage_without_a_payload_runs_from_its_64_bit_entry(tmp_path: Path) -> None:
    text = "mov eax, [rsi+0x202]; cmp eax, 0x53726448; setz al; out 0xf4, al"  # RSI: boot_params
    code = assemble(text, 0x100_0200, 64).code
    path = tmp_path / "x"
    path.write_bytes(images.bzimage(bytes(0x200) + code, compressed=False))
    config = ImageConfig(path, memory=64 * MIB, engine="bt", testdev=True)
    with ImageVm(config, lambda data: None, lambda data: None) as vm:
        vm.start()
        assert vm.wait(30) == 3


def test_the_debug_console_beside_the_test_devices(tmp_path: Path) -> None:
    text = "mov al, 'x'; out 0xe9, al; mov al, 5; out 0xe8, al; in al, 0xe8; out 0xf4, al"
    path = tmp_path / "x"
    path.write_bytes(images.multiboot_elf(assemble(text, AT + 12, 32).code, AT))
    said = bytearray()
    config = ImageConfig(path, memory=64 * MIB, engine="bt", testdev=True, debugcon=True)
    with ImageVm(config, lambda data: None, said.extend) as vm:
        vm.start()
        assert (vm.wait(30), said) == (5 << 1 | 1, b"x")


class Spy:
    """A device that notes what is stored to it."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def bus_read(self, offset: int, size: int) -> int:
        return 0

    def bus_write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, value))


def test_a_wait_by_port_0x80_costs_no_exit(tmp_path: Path) -> None:
    text = "mov al, 7; mov ecx, 9999; l: out 0x80, al; dec ecx; jne l; out 0x81, al; out 0xf4, al"
    path = tmp_path / "x"
    path.write_bytes(images.multiboot_elf(assemble(text, AT + 12, 32).code, AT))
    spy = Spy()
    config = ImageConfig(path, memory=64 * MIB, engine="bt", testdev=True)
    with ImageVm(config, lambda data: None, lambda data: None) as vm:
        vm.machine.ports.add(0x80, 2, spy, "spy")
        vm.start()
        assert vm.wait(30) == 15
    assert spy.seen == [(1, 7)]


OTHERS = f"""
    mov esi, others; xor edi, edi; mov ecx, 64; rep movsb
    mov ebx, 0xFEE00000; mov dword [ebx+0xF0], 0x1FF
    mov dword [ebx+0x300], 0xC4500; mov dword [ebx+0x300], 0xC4600
    mov dx, 0x510; mov ax, 5; out dx, ax; mov dx, 0x511; in al, dx; movzx ecx, al
    more: pause; cmp [{AT + 0x2000}], ecx; jne more
    mov al, cl
"""
OTHER = f"""
    bits 16
    others: cli; xor ax, ax; mov ds, ax; lgdt [0x30]; mov eax, 1; mov cr0, eax
    jmp 8:dword in32
    bits 32
    in32: mov eax, 0x10; mov ds, eax; lock inc dword [{AT + 0x2000}]; sleep: hlt; jmp sleep
"""
FLAT_GDT = bytes(8) + descriptor(0, 0xFFFFF, 0x9B, 0xC) + descriptor(0, 0xFFFFF, 0x93, 0xC)


def several(end: str) -> bytes:
    """An image of 32-bit code that starts the other CPUs from page 0, as many as fw_cfg says."""
    at = AT + 0x1000
    text = f"lgdt [gdtr]; lock inc dword [{AT + 0x2000}]; {OTHERS} {end}; gdtr: dw 23; dd {at}"
    code = assemble(text + OTHER, AT + 12, 32)
    body = bytearray(images.multiboot_header() + code.code + bytes(16))
    start = code.labels["others"] - AT
    body[start + 0x30 : start + 0x36] = struct.pack("<HI", 23, at)
    parts = [images.Part(AT, bytes(body)), images.Part(at, FLAT_GDT.ljust(0x2000, b"\0"))]
    return images.elf(parts, AT + 12, bits=32)


@pytest.mark.parametrize("cpus", [1, *(pytest.param(n, marks=SEVERAL) for n in (2, 4))])
@pytest.mark.parametrize(
    ("end", "code"), [("mov dx, 0xF4; out dx, al", None), ("cli; hlt", 0)], ids=["exits", "halts"]
)
def test_images_start_other_cpus(cpus: int, end: str, code: int | None, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(several(end))
    config = ImageConfig(path, cpus=cpus, memory=64 * MIB, engine="bt", testdev=True)
    with ImageVm(config, lambda data: None, lambda data: None) as vm:
        vm.start()
        if code is None:
            assert vm.wait(30) == cpus << 1 | 1
        else:
            with pytest.raises(GuestCrash, match="halted"):
                vm.wait(30)


SUSPEND = """
    scan: mov ebx, 0xE0000
    root: cmp dword [ebx], 0x20445352; je found; add ebx, 16; jmp root
    found: mov ebx, [ebx+16]; mov ecx, [ebx+4]; mov esi, ebx; add esi, 36; add ecx, ebx
    table: mov edi, [esi]; cmp dword [edi], 0x50434146; je fadt; add esi, 4; jmp table
    fadt: mov ebp, [edi+36]; mov dword [ebp+12], 0x1000
    mov dword [0x1000], 0x0000A166; mov dword [0x1004], 0x6600F4BA; mov byte [0x1008], 0xEF
    mov edx, [edi+56]; add edx, 2; mov ax, 0x400; out dx, ax
    up: mov al, 10; out 0x70, al; in al, 0x71; test al, 0x80; je up
    down: mov al, 10; out 0x70, al; in al, 0x71; test al, 0x80; jne down
    mov al, 12; out 0x70, al; in al, 0x71
    mov al, 1; out 0x70, al; mov al, 0xC0; out 0x71, al
    mov al, 3; out 0x70, al; mov al, 0xC0; out 0x71, al
    mov al, 5; out 0x70, al; mov al, 0xC0; out 0x71, al
    mov al, 11; out 0x70, al; in al, 0x71; or al, 0x20; out 0x71, al
    mov dword [0], 4
    mov edx, [edi+64]; mov ax, 0x2400; out dx, ax
    mov dword [0], 5; mov eax, 9; out 0xF4, eax
"""
"""Finds the FACS by the 32-bit pointers, puts `mov eax, [0]; mov dx, 0xF4; out dx, eax` of 16-bit
code where it shall wake, sets an alarm for every second and sleeps; RAM holds 4 at address 0."""


def test_s3_wakes_in_real_mode_at_the_vector_of_the_facs(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(images.multiboot_elf(assemble(SUSPEND, AT + 12, 32).code, AT))
    config = ImageConfig(path, memory=64 * MIB, engine="bt", testdev=True)
    with ImageVm(config, lambda data: None, lambda data: None) as vm:
        vm.start()
        assert vm.wait(30) == 4 << 1 | 1, vm.report()
