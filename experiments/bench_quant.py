"""Speed and memory of our block-wise quantizer against bitsandbytes' on the CPU, as ratios.

    python -m experiments.bench_quant [--rounds 3]

Both turn one 4096 x 4096 bf16 weight into packed nf4 in blocks of 64 and back, with and without
double quantization. Each arm is a process of its own and they take turns; what counts is the
fastest time over all repeats of all rounds. Memory is the most that the process holds beyond what
it held before, the result included. First the results of both are compared: they must be equal to
the bit.

Two kinds of memory are measured. Fresh memory, which the kernel must map: glibc gives such to any
result of this size, 32 MiB, unless it was told otherwise, and what is kept always takes it. Beside
it, without a target, memory that the process has already: there bitsandbytes' AVX-512 look-ups, of
which torch has none, dequantize several times faster.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from qlora_repro.console import say

ROOT = Path(__file__).resolve().parent.parent
SIDE, BLOCKSIZE, DTYPE = 4096, 64, "nf4"
REPEATS = 5
IMPLEMENTATIONS = ("ours", "bitsandbytes")
# Bytes from which on glibc asks the kernel anew: for codes and weights, but no copies of a piece
ANEW = {"fresh": 1 << 23, "reused": 1 << 30}
# what of an arm, how often better it must be in fresh memory
TARGETS = {"quantize": 5.0, "dequantize": 1.0}
Case = tuple[str, str, bool, str]  # arm, memory, dq, what of it


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One direction of one arm."""

    seconds: float  # the fastest
    memory: int  # bytes beyond what was held before


def weight() -> Any:
    """Return the weight: (4096, 4096) bf16, normal with the spread of a trained one."""
    import torch

    rng = torch.Generator().manual_seed(0)
    return (torch.randn(SIDE, SIDE, generator=rng) * 0.02).bfloat16()


def our_way(dq: bool) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return our functions from a weight to packed codes and constants, and back."""
    from qlora_repro.quant.blockwise import dequantize_packed, double_quantize, pack_codes, quantize
    from qlora_repro.quant.codebooks import make_codebook

    book = make_codebook(DTYPE)

    def forward(held: Any) -> Any:
        q = quantize(held, book, blocksize=BLOCKSIZE)
        twice = double_quantize(q.absmax) if dq else None
        return replace(q, codes=pack_codes(q.codes, dtype=DTYPE)), twice

    def back(stored: Any) -> Any:
        q, twice = stored
        absmax = q.absmax if twice is None else twice.dequantize()
        return dequantize_packed(replace(q, absmax=absmax), book, dtype=DTYPE)

    return forward, back


def their_way(dq: bool) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return bitsandbytes' functions from a weight to packed codes and constants, and back."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def forward(held: Any) -> Any:
        return quantize_4bit(held, blocksize=BLOCKSIZE, quant_type=DTYPE, compress_statistics=dq)

    return forward, lambda stored: dequantize_4bit(*stored)


def measure(arm: str, *, dq: bool) -> dict[str, Measured]:
    """Measure both directions of one arm in this process."""
    forward, back = (our_way if arm == "ours" else their_way)(dq)
    held = weight()
    back(forward(held[:64]))  # what is imported and built once
    measured = {"quantize": timed(forward, held)}
    return measured | {"dequantize": timed(back, forward(held))}


def timed(work: Callable[[Any], Any], argument: Any) -> Measured:
    """Return the fastest of the repeats and the memory of the first."""
    reset = Path("/proc/self/clear_refs")
    memory, seconds = 0, []
    for repeat in range(REPEATS):
        if repeat == 0 and reset.exists():
            reset.write_text("5")  # the peak so far is forgotten
            before = resident("VmRSS")
        start = time.perf_counter()
        work(argument)
        seconds.append(time.perf_counter() - start)
        if repeat == 0 and reset.exists():
            memory = resident("VmHWM") - before
    return Measured(seconds=min(seconds), memory=memory)


def resident(field: str) -> int:
    """Return a size of this process in bytes, as Linux gives it."""
    size = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(size[1]) * 1024 if size else 0


def measured_apart(arm: str, *, dq: bool, memory: str) -> dict[str, Measured]:
    """Measure one arm in a process of its own; its output is shown only when it fails."""
    command = [sys.executable, "-m", "experiments.bench_quant", "--arm", arm, *(["--dq"] * dq)]
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": str(ANEW[memory]),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),  # and what it holds it keeps
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        say(done.stdout, done.stderr)
        raise SystemExit(f"arm {arm} failed")
    lines = json.loads(done.stdout.splitlines()[-1])
    return {what: Measured(**measured) for what, measured in lines.items()}


def refuse_unequal() -> None:
    """Stop unless both arms give the same bytes and the same weight."""
    import torch

    held = weight()
    for dq in (False, True):
        (ours_there, ours_back), (their_there, their_back) = our_way(dq), their_way(dq)
        ours, theirs = ours_there(held), their_there(held)
        same = torch.equal(ours[0].codes, theirs[0].view(-1))
        if not same or not torch.equal(ours_back(ours), their_back(theirs)):
            raise SystemExit(f"the arms differ with dq={dq}: their speeds cannot be compared")


def best(rounds: list[Measured]) -> Measured:
    """Return the fastest time and the least memory over the rounds."""
    return Measured(seconds=min(m.seconds for m in rounds), memory=min(m.memory for m in rounds))


def show_measurements(measured: dict[Case, list[Measured]]) -> None:
    """Print times and memory of both, then bitsandbytes' over ours."""
    from rich.table import Table

    table = Table(title=f"{DTYPE}, blocks of {BLOCKSIZE}, {SIDE} x {SIDE} bf16")
    for heading in (
        "",
        "memory",
        "dq",
        "ours",
        "bitsandbytes",
        "times faster",
        "target",
        "memory ratio",
    ):
        table.add_column(heading, justify="left" if heading in ("", "memory") else "right")
    for what, memory, dq in product(TARGETS, ANEW, (False, True)):
        ours, theirs = (best(measured[arm, memory, dq, what]) for arm in IMPLEMENTATIONS)
        ratio = theirs.seconds / ours.seconds
        sides = [f"{m.seconds * 1e3:.1f} ms, {m.memory / 1e6:.0f} MB" for m in (ours, theirs)]
        # of memory that was there before, what it adds says nothing
        less = f"{ours.memory / theirs.memory:.2f}" if memory == "fresh" and theirs.memory else "-"
        verdict = f"{TARGETS[what]:.0f}: {'met' if ratio >= TARGETS[what] else 'missed'}"
        verdict = verdict if memory == "fresh" else "-"
        table.add_row(what, memory, "yes" if dq else "no", *sides, f"{ratio:.2f}", verdict, less)
    say(table)


def main() -> None:
    """Compare the results, then measure every arm in turn; or, as a part of that, one arm."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arm", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--dq", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.arm:
        lines = measure(asked.arm, dq=asked.dq)
        sys.stdout.write(json.dumps({what: asdict(one) for what, one in lines.items()}) + "\n")
        return
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    refuse_unequal()
    measured: dict[Case, list[Measured]] = {}
    for _, memory, dq, arm in product(range(asked.rounds), ANEW, (False, True), IMPLEMENTATIONS):
        for what, one in measured_apart(arm, dq=dq, memory=memory).items():
            measured.setdefault((arm, memory, dq, what), []).append(one)
    show_measurements(measured)


if __name__ == "__main__":
    main()
