"""What Python sees of the decoder (the C interface is decode.pxd)."""

from barevisor.cpu.bt.rowfacts import exec_names as exec_names
from barevisor.cpu.bt.rowfacts import hint_names as hint_names
from barevisor.cpu.bt.rowfacts import mnemonic_names as mnemonic_names
from barevisor.cpu.x86.instructions import Row

class Decoded:
    row: Row
    mnemonic: str
    length: int
    memory_size: int
    fields: dict[str, int]

def decode_bytes(code: bytes, bits: int) -> Decoded | None: ...
def decode_status(code: bytes, bits: int, *, real: bool = False, vm86: bool = False) -> int: ...
def row_facts(row: int) -> dict[str, int]: ...
def benchmark(codes: list[bytes], bits: int, rounds: int) -> float: ...
