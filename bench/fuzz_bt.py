"""Hostile guests against the software engine, for as long as wanted.

    python bench/fuzz_bt.py --seconds 600 --first 0 [--batch 512]

Each batch of seeds runs in a child process. A child that dies, raises or hangs is reported with
the seed that ran (a batch can be repeated with `--first SEED0 --once`, SEED0 being the batch's).
"""

import argparse
import ctypes
import faulthandler
import mmap
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from barevisor.testing import hostile

STACK = 512 << 10


def child(first: int, count: int, note: Path) -> None:
    from barevisor.cpu.bt.vm import BtEngine

    faulthandler.enable()
    with note.open("r+b") as f:
        shared = mmap.mmap(f.fileno(), 8)
    current = ctypes.c_uint64.from_buffer(shared)
    # A small stack: handlers that call each other instead of jumping would run out of it.
    threading.stack_size(STACK)
    with ThreadPoolExecutor(1) as pool:
        totals = pool.submit(hostile.run_cases, BtEngine(), first, count, current).result()
    sys.stdout.write(f"{totals.cases} {totals.runs} {totals.instructions}\n")


def batch(first: int, count: int, limit: float) -> tuple[list[int], str]:
    """Totals, and what went wrong."""
    with tempfile.NamedTemporaryFile() as note:
        note.write(bytes(8))
        note.flush()
        command = [sys.executable, __file__, "--child", note.name, "--first", str(first)]
        try:
            done = subprocess.run(
                [*command, "--batch", str(count)], capture_output=True, text=True, timeout=limit
            )
            error = done.stderr if done.returncode else ""
            code = str(done.returncode)
        except subprocess.TimeoutExpired:
            done, error, code = None, "no end", "timeout"
        seed = int.from_bytes(Path(note.name).read_bytes(), "little")
    if error or done is None or done.returncode:
        return [0, 0, 0], f"seed {seed} of batch {first}: exit {code}\n{error[-1500:]}"
    return [int(n) for n in done.stdout.split()], ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--child", type=Path)
    args = parser.parse_args()
    if args.child:
        child(args.first, args.batch, args.child)
        return 0
    end = time.monotonic() + args.seconds
    totals, bad, first = [0, 0, 0], 0, args.first
    while time.monotonic() < end:
        done, wrong = batch(first, args.batch, 300)
        totals = [a + b for a, b in zip(totals, done, strict=True)]
        if wrong:
            bad += 1
            sys.stdout.write(wrong + "\n")
            sys.stdout.flush()
        first += args.batch
        if args.once:
            break
    cases, runs, instructions = totals
    sys.stdout.write(
        f"seeds {args.first}..{first - 1}: {cases} cases, {runs} runs, "
        f"{instructions} instructions; {bad} batches failed\n"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
