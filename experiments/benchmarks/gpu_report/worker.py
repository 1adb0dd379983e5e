"""Runs parts of the report in a process of its own, and leaves a file a part.

    python -m experiments.benchmarks.gpu_report.worker FOLDER 2 3 4

`part-N.began` appears when part N begins, `part-N.json` when it is over, whatever came of it. Its
rows are there too if it failed. `machine.json` says what it runs on.
"""

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.gpu_report.parts import (
    PARTS,
    Bench,
    NeedsGpuError,
    PartReport,
    measure_rates,
)
from experiments.benchmarks.gpu_report.timed_training import free_memory


def main() -> None:
    """Run the parts that are named, in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", type=int, nargs="+")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--oversubscribe", action="store_true")
    parser.add_argument("--seconds", type=float, help="of each part, in place of its own limit")
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    describe_machine(asked, device)
    for number in asked.parts:
        run_part(number, asked, device)


def describe_machine(asked: argparse.Namespace, device: torch.device) -> None:
    """Write machine.json, unless an earlier worker did."""
    path = asked.folder / "machine.json"
    if path.exists():
        return
    bench = _bench(asked, device, limit=30.0)
    card = device.type == "cuda"
    path.write_text(
        json.dumps(
            {
                "card": torch.cuda.get_device_name() if card else None,
                "memory_bytes": torch.cuda.get_device_properties(0).total_memory if card else None,
                "rates": measure_rates(bench),
            }
        )
    )


def run_part(number: int, asked: argparse.Namespace, device: torch.device) -> None:
    """Run one part and write what came of it."""
    part, report = PARTS[number], PartReport()
    limit = asked.seconds or part.limit
    (asked.folder / f"part-{number}.began").write_text(str(time.time()))
    began = time.monotonic()
    state, why = "passed", None
    try:
        part.run(_bench(asked, device, limit=limit), report)
    except NeedsGpuError as error:
        state, why = "skipped", str(error)
    except Exception as error:  # noqa: BLE001  # the next part runs whatever became of this one
        state, why = "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        sys.stderr.write(traceback.format_exc())
    free_memory()
    result: dict[str, Any] = {
        "number": number,
        "name": part.name,
        "state": state,
        "why": why,
        "seconds": time.monotonic() - began,
        "limit_s": limit,
        "rows": report.rows,
        "facts": report.facts,
    }
    beside = asked.folder / f".part-{number}.json"
    beside.write_text(json.dumps(result))
    beside.rename(asked.folder / f"part-{number}.json")


def _bench(asked: argparse.Namespace, device: torch.device, *, limit: float) -> Bench:
    return Bench(
        device=device,
        tiny=asked.tiny,
        oversubscribe=asked.oversubscribe,
        deadline=time.monotonic() + limit,
        folder=asked.folder,
    )


if __name__ == "__main__":
    main()
