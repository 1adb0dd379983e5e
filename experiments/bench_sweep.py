"""What a sweep costs beside its training: python -m experiments.bench_sweep.

The real command on the tiny model, one thread a process: twelve cells in one process against twelve
processes, a cell beyond its training, a finished sweep asked for again, and two workers of joblib
against one, each with a thread.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from qlora_repro.console import say

ROOT = Path(__file__).resolve().parents[1]
TINY = ("model=tiny", "eval=none", "train.max_steps=4", "data.rows=32", "lora.r=4")
SEEDS = 12
MANY = 100  # cells of the finished sweep
FASTER = 3.0  # times: one process against as many as there are cells
BEYOND = 0.5  # s
AGAIN = 20.0  # s
SKIP = 0.2  # s
SCALING = 1.7  # times: two workers against one
# Training is most of such a cell, as of any that is worth a second worker.
LONG = ("train.max_steps=240", "data.rows=512", "train.save_steps=0")


def run(folder: Path, *overrides: str) -> float:
    """Run the command in a folder; return its seconds. Raises SystemExit when it fails."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *overrides],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.monotonic() - began


def training_seconds(folder: Path) -> list[float]:
    """Return the seconds of each training of a results folder, the optimizer's steps alone."""
    marks = sorted((folder / "outputs" / "results").glob("*/train.json"))
    return [float(json.loads(mark.read_text())["seconds"]) for mark in marks]


def process_start(folder: Path) -> float:
    """Return the seconds that python, Hydra and composing a configuration take."""
    return min(run(folder, *TINY, "--cfg", "job") for _ in range(3))


def scaling(folder: Path) -> list[tuple[str, str, str]]:
    """Measure the training of one worker and of two, with one thread each, start-up apart.

    A worker imports torch once, whatever it does then: the time of two cells, one a worker, is
    taken off that of as many as a bench has.
    """
    took: dict[int, float] = {}
    for workers in (1, 2):
        overrides = [
            *TINY,
            *LONG,
            "hydra/launcher=joblib",
            f"hydra.launcher.n_jobs={workers}",
            "-m",
        ]
        times = []
        for cells in (workers, SEEDS + workers):
            name = folder / f"workers-{workers}-{cells}"
            name.mkdir()
            times.append(run(name, *overrides, seeds(cells)))
        took[workers] = times[1] - times[0]
    ratio = took[1] / took[2]
    return [
        (f"{SEEDS} cells more, one joblib worker", f"{took[1]:.1f} s", ""),
        (f"{SEEDS} cells more, two joblib workers", f"{took[2]:.1f} s", ""),
        ("ratio", f"{ratio:.2f}", _verdict(ratio >= SCALING, f"at least {SCALING:g}")),
    ]


def seeds(count: int) -> str:
    """Return the sweep's axis."""
    return f"seed={','.join(map(str, range(count)))}"


def measure(folder: Path) -> list[tuple[str, str, str]]:
    """Return (what, measured, target and whether it is met)."""
    for name in ("one", "apart", "few"):
        (folder / name).mkdir()
    one = run(folder / "one", *TINY, "-m", seeds(SEEDS))
    apart = sum(run(folder / "apart", *TINY, f"seed={seed}") for seed in range(SEEDS))
    start, alone = process_start(folder), run(folder / "few", *TINY, "seed=0")
    trained = training_seconds(folder / "one")
    beyond = (one - alone - sum(trained[1:])) / (SEEDS - 1)
    again = min(run(folder / "one", *TINY, "seed=0") for _ in range(3))
    run(folder / "one", *TINY, "-m", seeds(MANY))
    finished = run(folder / "one", *TINY, "-m", seeds(MANY))
    first = training_seconds(folder / "few")[0]
    return [
        (f"{SEEDS} cells in one process", f"{one:.1f} s", ""),
        (f"{SEEDS} processes of a cell each", f"{apart:.1f} s", ""),
        ("ratio", f"{apart / one:.2f}", _verdict(apart / one >= FASTER, f"at least {FASTER:g}")),
        ("a cell alone, of which training", f"{alone:.1f} s, {first:.2f} s", ""),
        (
            "a cell beyond its training",
            f"{beyond:.2f} s",
            _verdict(beyond < BEYOND, f"< {BEYOND} s"),
        ),
        ("process start: --cfg job", f"{start:.2f} s", ""),
        (
            "a finished cell, beyond process start",
            f"{again - start:.2f} s",
            _verdict(again - start < SKIP, f"< {SKIP} s"),
        ),
        (
            f"a finished sweep of {MANY} cells",
            f"{finished:.1f} s",
            _verdict(finished < AGAIN, f"< {AGAIN:g} s"),
        ),
    ]


def _verdict(met: bool, target: str) -> str:
    return f"{target}: {'met' if met else 'missed'}"


def show_rows(rows: Sequence[tuple[str, str, str]]) -> None:
    """Print the figures."""
    table = Table(title="what a sweep costs; tiny model, one thread", title_justify="left")
    for name in ("", "measured", "target"):
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    say(table)


def main() -> None:
    """Measure in a folder of its own, and print."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    with tempfile.TemporaryDirectory() as folder:
        show_rows([*measure(Path(folder)), *scaling(Path(folder))])


if __name__ == "__main__":
    main()
