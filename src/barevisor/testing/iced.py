"""iced-x86 as the decoder's oracle: what it says of some bytes, in our terms.

Needs the package iced-x86 (the `test` extra).
"""

import random
from collections.abc import Iterator

import iced_x86 as iced

from barevisor.cpu.bt.decode import decode_status

FEATURE_NAMES = {n: k for k, n in vars(iced.CpuidFeature).items() if isinstance(n, int)}
CODE_NAMES = {n: k for k, n in vars(iced.Code).items() if isinstance(n, int)}

# iced's features that some CPU model of ours can have -> the name in instructions.FEATURES; ""
# means every CPU has it.
FEATURES = {
    "INTEL8086": "", "INTEL8086_ONLY": "", "INTEL186": "", "INTEL286": "", "INTEL286_ONLY": "",
    "INTEL386": "", "INTEL386_ONLY": "", "INTEL486": "", "X64": "", "CPUID": "", "RSM": "",
    "SMM": "", "PAUSE": "", "RDPMC": "", "MULTIBYTENOP": "", "UD": "", "HLE_OR_RTM": None,
    "FPU": "fpu", "FPU287": "fpu", "FPU287XL_ONLY": "fpu", "FPU387": "fpu", "TSC": "tsc",
    "MSR": "msr", "CX8": "cx8", "SEP": "sep", "CMOV": "cmov", "CLFSH": "clflush", "MMX": "mmx",
    "FXSR": "fxsr", "SSE": "sse", "SSE2": "sse2", "SSE3": "pni", "PCLMULQDQ": "pclmulqdq",
    "MONITOR": "monitor", "SSSE3": "ssse3", "FMA": "fma", "CMPXCHG16B": "cx16",
    "SSE4_1": "sse4_1", "SSE4_2": "sse4_2", "MOVBE": "movbe", "POPCNT": "popcnt", "AES": "aes",
    "XSAVE": "xsave", "AVX": "avx", "F16C": "f16c", "RDRAND": "rdrand", "FSGSBASE": "fsgsbase",
    "BMI1": "bmi1", "AVX2": "avx2", "BMI2": "bmi2", "INVPCID": "invpcid", "ADX": "adx",
    "SMAP": "smap", "RDSEED": "rdseed", "CLFLUSHOPT": "clflushopt", "CLWB": "clwb",
    "SHA": "sha_ni", "RDPID": "rdpid", "XSAVEOPT": "xsaveopt", "XSAVEC": "xsavec",
    "XSAVES": "xsaves", "LZCNT": "abm", "SYSCALL": "syscall", "RDTSCP": "rdtscp", "VAES": "vaes",
    "VPCLMULQDQ": "vpclmulqdq", "GFNI": "gfni", "PKU": "pku", "PREFETCHW": "", "PREFETCHWT1": "",
}  # fmt: skip

# Where we accept what a CPU without the feature accepts too, or leave out what every Intel CPU
# leaves out. Key: how iced's code begins. Every one has its reason.
ACCEPTED = {
    "RDSSP": "CET: a NOP (0F 1E) where CET is not",
    "ENDBR": "CET: a NOP (0F 1E) where CET is not",
    "CLDEMOTE": "a NOP (0F 1C) where CLDEMOTE is not",
    "PREFETCHIT": "a NOP (0F 18) where PREFETCHI is not",
    "PREFETCHRST2": "a NOP (0F 18) where MOVRS is not",
    "WBNOINVD": "F3 is ignored: WBINVD where WBNOINVD is not",
    "VMCALL": "the hypercall",
    "VMMCALL": "the hypercall",
    "VMGEXIT": "F2 and F3 are ignored: VMMCALL where SEV-ES is not",
}


def expected(code: bytes, bits: int) -> tuple[int, str]:
    """(length, or 0 when it must not decode; a class to report it by)."""
    found = iced.Decoder(bits, code).decode()
    if found.is_invalid:
        return 0, "invalid"
    name = CODE_NAMES[found.code]
    if any(name.startswith(prefix) for prefix in ACCEPTED):
        return found.len, name
    if any(FEATURES.get(FEATURE_NAMES[f]) is None for f in found.cpuid_features()):
        return 0, name
    return found.len, name


def mismatch(code: bytes, bits: int) -> str | None:
    """What differs between the decoder and iced, or None."""
    want, name = expected(code, bits)
    got = max(0, decode_status(code, bits))
    return None if got == want else f"{bits}-bit {code.hex()}: {got}, iced {want} {name}"


PREFIXES = bytes.fromhex("66 f2 f3 f0 67 2e 36 3e 26 64 65")


def random_codes(seed: int, count: int) -> Iterator[tuple[bytes, int]]:
    """Byte strings of 15 to 17 bytes, shaped as instructions so that most maps are reached."""
    rnd = random.Random(seed)
    shapes = (b"", b"", b"", b"\x0f", b"\x0f", b"\x0f\x38", b"\x0f\x3a", b"\xc5", b"\xc4", b"\xc4")
    for _ in range(count):
        bits = rnd.choice((16, 32, 64, 64))
        head = bytearray()
        while rnd.random() < 0.35:
            head.append(rnd.choice(PREFIXES[:4] if rnd.random() < 0.6 else PREFIXES))
        if bits == 64 and rnd.random() < 0.3:
            head.append(0x40 | rnd.randrange(16))
        shape = rnd.choice(shapes)
        head += shape
        if shape == b"\xc5":
            head.append(rnd.randrange(256) | rnd.choice((0, 0xF8)))
        elif shape == b"\xc4":
            head.append(rnd.choice((0xE0, rnd.randrange(8) << 5)) | rnd.choice((1, 2, 2, 3, 3, 4)))
            head.append(rnd.choice((rnd.randrange(256), 0x78 | rnd.randrange(8))))
        yield bytes(head + rnd.randbytes(16))[: rnd.choice((15, 15, 16, 17))], bits


def mutated_codes(
    seed: int, count: int, valid: list[tuple[bytes, int]]
) -> Iterator[tuple[bytes, int]]:
    """Valid encodings with a few bytes changed, inserted or removed, sometimes in another mode."""
    rnd = random.Random(seed)
    for _ in range(count):
        code, bits = rnd.choice(valid)
        out = bytearray(code)
        for _ in range(rnd.randrange(1, 4)):
            at = rnd.randrange(len(out)) if out else 0
            match rnd.randrange(4):
                case 0:
                    out.insert(at, rnd.choice(PREFIXES))
                case 1:
                    out.insert(at, rnd.randrange(256))
                case 2 if out:
                    out[at] ^= 1 << rnd.randrange(8)
                case _ if out:
                    del out[at]
        out += rnd.randbytes(16)
        yield bytes(out[: rnd.choice((15, 16))]), rnd.choice((bits, bits, 16, 32, 64))
