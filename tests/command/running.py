"""The real command in a process of its own, in an empty folder, as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

RUN = Path(__file__).resolve().parents[2] / "run.py"
TINY = ["model=tiny", "eval=none", "train.max_steps=2"]  # seconds, most of them imports
PATIENCE = 180  # s: a hung run fails its test, a slow machine does not


@dataclass(frozen=True)
class Outcome:
    """A command that has ended."""

    code: int
    out: str
    err: str
    folder: Path  # where it ran

    @property
    def results(self) -> Path:
        return self.folder / "outputs" / "results"

    @property
    def runs(self) -> list[Path]:
        """The folders of trained models."""
        return [path for path in self.results.glob("*-*") if "untuned" not in path.name]

    def refusal(self) -> str:
        """Return the one sentence that it failed with; there must be no other line on stderr."""
        assert self.code == 1, (self.code, self.out, self.err)
        assert self.err.startswith("error: "), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("error: ").rstrip("\n")

    def assert_nothing_half_written(self) -> None:
        """Every file in the store can be read to its end, and the run left its reason alone."""
        assert {path.name for run in self.runs for path in run.iterdir()} <= {"failed.json"}
        for path in self.results.rglob("*"):
            assert not path.name.endswith(".part"), path
            assert path.name != "train.json", path
            if path.suffix == ".json":
                json.loads(path.read_text())
            if path.suffix == ".jsonl":
                [json.loads(line) for line in path.read_text().splitlines()]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command that must be refused, and what its sentence must hold."""

    says: Sequence[str]
    words: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)  # written before it starts
    prepare: Callable[[Path], object] | None = None
    env: Mapping[str, str] = field(default_factory=dict)  # {folder} stands for where it runs


def environment(**more: str) -> dict[str, str]:
    """Nothing from a network, and one thread: other tests run beside this one."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | more


def start(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the command; its lines can be read as they come."""
    # A shell's background job ignores Ctrl-C, and so would every process that it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, str(RUN), *words],
            cwd=folder,
            env=environment(**(env or {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def end(process: subprocess.Popen[str], folder: Path, *, read: str = "") -> Outcome:
    """Wait for a command; `read` is what was read of its output already."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Outcome(code=process.returncode, out=read + out, err=err, folder=folder)


def command(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Outcome:
    """Run the command to its end."""
    return end(start(folder, *words, env=env), folder)


def run_case(case: Case, folder: Path) -> Outcome:
    """Set a case up in an empty folder and run it."""
    for name, text in case.files.items():
        (folder / name).write_text(text)
    if case.prepare is not None:
        case.prepare(folder)
    env = {name: value.format(folder=folder) for name, value in case.env.items()}
    return command(folder, *case.words, env=env)


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """Read the command's lines until one holds a word; return them."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if word in line:
            return read
    raise AssertionError(f"{word!r} never came: {read}{end(process, Path()).err}")


def wait_for(process: subprocess.Popen[str], there: Callable[[], bool]) -> None:
    """Wait until something has happened on the disk while the command runs."""
    ends = time.monotonic() + PATIENCE
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends, "it never happened"
        time.sleep(0.01)


def interrupt(process: subprocess.Popen[str], folder: Path, *, read: str) -> tuple[Outcome, float]:
    """Press Ctrl-C; return how the command ended and how many seconds that took."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    outcome = end(process, folder, read=read)
    return outcome, time.monotonic() - began
