"""How long the visible paths are: python -m experiments.benchmarks.path_length.

From the command to the optimizer step, and from a table to the stored answers: the frames and files
of this project on the stack at that point, and the project's modules that are loaded.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from qlora_repro.console import say

ROOT = Path(__file__).resolve().parents[2]
SWEEP = (
    "model=tiny",
    "data=procedural",
    "data.rows=8",
    "train.max_steps=1",
    "eval=none",
    "stages=[train]",
    "-m",
    "dtype=nf4,fp4",
)
TABLE = ("tables", "table4_mmlu_by_dtype")
STEP_FRAMES = 9  # at most, run.py's two among them
TABLE_FRAMES, TABLE_FILES, TABLE_MODULES = 9, 6, 40

# What the measured process runs: its stack is printed the first time that the point is reached.
PRINT_STACK = """
import runpy, sys, traceback
from pathlib import Path

def report(root=Path({root!r})):
    here = [f for f in traceback.extract_stack() if root in Path(f.filename).parents]
    here = [f for f in here if ".venv" not in f.filename and f.filename != "<string>"]
    for frame in here:
        print("FRAME", Path(frame.filename).relative_to(root), frame.name, flush=True)
    modules = [n for n in sys.modules if n.partition(".")[0] in ("qlora_repro", "analysis")]
    print("MODULES", len(modules), flush=True)
"""
TRAINING_STEP = """
import transformers
step, steps = transformers.Trainer.training_step, []

def training_step(*words, **named):
    if not steps:
        report()
    steps.append(1)
    return step(*words, **named)

transformers.Trainer.training_step = training_step
sys.argv = [{run!r}, *{words!r}]
runpy.run_path({run!r}, run_name="__main__")
"""
OPENED_ANSWERS = """
import pyarrow.parquet as pq
reached = []

def note_path(path):
    if isinstance(path, (str, Path)) and Path(path).name.startswith("answers") and not reached:
        reached.append(1)
        report()

def on_open(event, words):
    if event == "open":
        note_path(words[0])

def noting(function):
    def call(path, *words, **named):
        note_path(path)
        return function(path, *words, **named)
    return call

sys.addaudithook(on_open)
pq.read_table, pq.ParquetFile = noting(pq.read_table), noting(pq.ParquetFile)  # it opens in C++
sys.argv = ["analysis", *{words!r}]
runpy.run_module("analysis", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Stack:
    """What of this project was on the stack and loaded at a point."""

    frames: list[tuple[str, str]]  # (file, function), outermost first
    modules: int

    @property
    def files(self) -> list[str]:
        """Return the files, in the order of the path."""
        return list(dict.fromkeys(file for file, _ in self.frames))


def measure_training_step(folder: Path) -> Stack:
    """Return the stack on entry of the Trainer's first step, in a sweep of two tiny cells."""
    code = PRINT_STACK.format(root=str(ROOT))
    code += TRAINING_STEP.format(run=str(ROOT / "run.py"), words=list(SWEEP))
    return _run(code, folder)


def measure_table(folder: Path) -> Stack:
    """Return the stack when the table of Table 4 opens the stored answers."""
    code = PRINT_STACK.format(root=str(ROOT))
    code += OPENED_ANSWERS.format(words=[*TABLE, "--out", str(folder)])
    return _run(code, ROOT)


def _run(code: str, folder: Path) -> Stack:
    """Run the code in a process of its own. Raises SystemExit where the point is not reached."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    frames = [(line[1], line[2]) for line in lines if line[:1] == ["FRAME"]]
    if not frames:
        raise SystemExit(f"the point was not reached:\n{done.stdout}{done.stderr}")
    (modules,) = [int(line[1]) for line in lines if line[:1] == ["MODULES"]]
    return Stack(frames, modules)


def show_stack(title: str, stack: Stack) -> None:
    """Print a path, a frame a line, and its lengths."""
    say(title)
    for file, function in stack.frames:
        say(f"  {file}: {function}")
    say(f"  {len(stack.frames)} frames in {len(stack.files)} files; {stack.modules} modules loaded")


def main() -> int:
    """Measure both paths; return 1 where one is longer than it may be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("step", "table"), help="default: both")
    chosen = parser.parse_args().only
    longer = False
    with tempfile.TemporaryDirectory() as folder:
        if chosen != "table":
            step = measure_training_step(Path(folder))
            show_stack("python run.py -m dtype=nf4,fp4, at Trainer.training_step", step)
            longer |= len(step.frames) > STEP_FRAMES
        if chosen != "step":
            table = measure_table(Path(folder))
            show_stack(f"python -m analysis {' '.join(TABLE)}, as the answers are opened", table)
            longer |= len(table.frames) > TABLE_FRAMES or len(table.files) > TABLE_FILES
            longer |= table.modules > TABLE_MODULES
    return int(longer)


if __name__ == "__main__":
    sys.exit(main())
