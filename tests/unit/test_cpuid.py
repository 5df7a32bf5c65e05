"""CPU models: what each leaf says, and that a model is its features and nothing else."""

import pytest

from barevisor.cpu.x86 import cpuid, hostcpuid
from barevisor.errors import ConfigError, EngineError


def nothing(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    return (0, 0, 0, 0)


def everything(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    return (0xFFFFFFFF,) * 4


def reader(rows: tuple[cpuid.CpuidRow, ...]) -> cpuid.Reader:
    def read(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        row = cpuid.lookup(rows, leaf, subleaf)
        return row.eax, row.ebx, row.ecx, row.edx

    return read


@pytest.mark.parametrize("model", cpuid.MODELS)
def test_table_announces_exactly_the_features(model: str) -> None:
    names = cpuid.features(model, everything)
    assert cpuid.host_features(reader(cpuid.table(names))) == names


def test_host_model_keeps_what_the_host_lacks_out() -> None:
    assert cpuid.features("host", nothing) == cpuid.EMULATED
    assert cpuid.features("host", everything) == cpuid.EMULATED | cpuid.NATIVE


@pytest.mark.parametrize(
    ("model", "error"), [("x86-64-v3", EngineError), ("486", ConfigError)], ids=["lacks", "unknown"]
)
def test_refused_models(model: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        cpuid.features(model, nothing)


@pytest.mark.parametrize(
    ("leaf", "subleaf", "register", "value"),
    [
        pytest.param(0x0, 0, "ebx", 0x756E6547, id="vendor"),
        pytest.param(0x1, 0, "ebx", 0x01020800, id="apic-id-cpus-clflush"),
        pytest.param(0x1, 0, "eax", 0x30661, id="signature"),
        pytest.param(0xB, 1, "ebx", 2, id="cores"),
        pytest.param(0xB, 1, "edx", 1, id="x2apic-id"),
        pytest.param(0xD, 0, "eax", 7, id="xcr0"),
        pytest.param(0xD, 0, "ecx", 832, id="xsave-size"),
        pytest.param(0xD, 2, "ebx", 576, id="avx-offset"),
        pytest.param(0x40000000, 0, "ebx", 0x4B4D564B, id="kvm"),
        pytest.param(0x40000001, 0, "eax", 0x0100004B, id="kvm-features"),
        pytest.param(0x40000010, 0, "eax", 2_445_428, id="tsc-khz"),
        pytest.param(0x80000008, 0, "eax", 0x302E, id="address-bits"),
        pytest.param(0x15, 0, "eax", 0, id="no-crystal"),
        pytest.param(0x7, 1, "eax", 0, id="no-leaf-7-1"),
    ],
)
def test_leaf(leaf: int, subleaf: int, register: str, value: int) -> None:
    rows = cpuid.table(cpuid.V3, index=1, cpus=2, tsc_khz=2_445_428)
    assert getattr(cpuid.lookup(rows, leaf, subleaf), register) == value


def test_without_interrupt_controllers_no_apic() -> None:
    read = reader(cpuid.table(cpuid.V2, irqchip=False))
    assert not cpuid.host_features(read) & {"apic", "x2apic", "tsc_deadline_timer"}


def test_mask_counts_from_the_tables_order() -> None:
    assert cpuid.mask({"sse2", "avx"}, ("", "sse", "sse2", "avx")) == 0b1101


def test_control_register_bits() -> None:
    assert cpuid.cr4_allowed(cpuid.V3) == 0x370FFF
    assert cpuid.efer_allowed(cpuid.V3) == 0xD01


def test_host_answers() -> None:
    assert {"sse2", "lm", "cx8"} <= cpuid.host_features(hostcpuid.cpuid)
