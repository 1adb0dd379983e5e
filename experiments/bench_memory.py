"""Memory predicted and measured: what loading a model and training it add to a process.

    python -m experiments.bench_memory [--batch 8] [--length 256] [--kept]

Growth is the most that is resident while two steps are trained, less what was resident before the
model was loaded. A tiny model is trained first, so that libraries, threads and their buffers are
there before. Each setting has a process of its own. A run keeps freed memory for its next tensors,
which makes the most that was ever resident depend on what came before; here each large tensor is
given back at once, so that the most is what was in use. `--kept` measures as runs are.
"""

import argparse
import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.bench_training import ROOT, configuration, our_model, train_as_we_do
from qlora_repro.console import say

SETTINGS = {
    "bf16": ("dtype=bf16", "dq=false", "train.gradient_checkpointing=false"),
    "bf16, checkpointed": ("dtype=bf16", "dq=false", "train.gradient_checkpointing=true"),
    "nf4 + dq": ("dtype=nf4", "dq=true", "train.gradient_checkpointing=false"),
    "nf4 + dq, checkpointed": ("dtype=nf4", "dq=true", "train.gradient_checkpointing=true"),
}
FLOAT32 = "dtype.compute_dtype=float32"  # on every processor
STEPS = 2  # the optimizer's states are there from the second on
TARGET = 0.15  # of the measured growth
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # glibc's numbers for mallopt
SMALL = 1 << 16  # bytes; larger tensors are mapped for themselves, and unmapped when freed


@dataclass(frozen=True, kw_only=True)
class Growth:
    """One setting: bytes added to the process."""

    predicted: int
    measured: int
    loaded: int  # of the measured, what was there before the first step


def resident(name: str) -> int:
    """Return VmRSS or VmHWM of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def forget_peak() -> None:
    """Let VmHWM start from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def give_back_at_once() -> None:
    """Have the C library return each large tensor when it is freed."""
    library = ctypes.CDLL(None)
    library.mallopt(MMAP_THRESHOLD, SMALL)
    library.mallopt(TRIM_THRESHOLD, SMALL)
    library.malloc_trim(0)


def measure(name: str, *, batch: int, length: int, keep_freed: bool) -> Growth:
    """Train one setting for two steps of rows that all have the same length."""
    from qlora_repro.memory.prediction import predict_peak

    size = (f"train.batch_size={batch}", f"train.micro_batch_size={batch}", "train.save_steps=0")
    targets = f"data.max_target_len={length // 4}"
    settings = (*SETTINGS[name], *size, targets, f"train.max_steps={STEPS}")
    _train(configuration(("model=tiny", FLOAT32, *settings)), length=length, keep_freed=keep_freed)
    cfg = configuration(("model=smollm2_135m", FLOAT32, *settings))
    before = resident("VmRSS")
    loaded = _train(cfg, length=length, keep_freed=keep_freed)
    return Growth(
        predicted=predict_peak(cfg, length=length, padded=False),
        measured=resident("VmHWM") - before,
        loaded=loaded - before,
    )


def _train(cfg: Any, *, length: int, keep_freed: bool) -> int:
    """Load and train; return what was resident in between, bytes."""
    model, tokenizer = our_model(cfg)
    if not keep_freed:
        give_back_at_once()
    loaded = resident("VmRSS")
    forget_peak()
    rows = random_rows(STEPS * cfg.train.batch_size, length=length, targets=cfg.data.max_target_len)
    train_as_we_do(cfg, model, tokenizer, rows, watch=[])
    return loaded


def random_rows(count: int, *, length: int, targets: int) -> list[Any]:
    """Return rows of random tokens, the last of which are trained on."""
    from qlora_repro.data.tokenization import EncodedExample

    rng = random.Random(0)
    ids = [[rng.randrange(3, 500) for _ in range(length)] for _ in range(count)]
    source = length - targets
    return [
        EncodedExample(ids=i, labels=[-100] * source + i[source:], truncated=False) for i in ids
    ]


def measured_apart(name: str, asked: argparse.Namespace, folder: Path) -> Growth:
    """Measure one setting in a process of its own; its output is shown only when it fails."""
    result = folder / "growth.json"
    command = [sys.executable, "-m", "experiments.bench_memory", "--setting", name]
    command += [
        "--result",
        str(result),
        "--batch",
        str(asked.batch),
        "--length",
        str(asked.length),
    ]
    done = subprocess.run(
        command + (["--kept"] if asked.kept else []), cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        say(done.stdout, done.stderr)
        raise SystemExit(f"setting {name} failed")
    return Growth(**json.loads(result.read_text()))


def show_growth(growths: dict[str, Growth]) -> None:
    """Print a row a setting."""
    from rich.table import Table

    table = Table(title="growth in memory, GB: loading the model and training it")
    for heading in ("setting", "predicted", "measured", "of it loaded", "ratio", "within 15%"):
        table.add_column(heading, justify="left" if heading == "setting" else "right")
    for name, growth in growths.items():
        ratio = growth.predicted / growth.measured
        sizes = (growth.predicted, growth.measured, growth.loaded)
        verdict = "yes" if abs(ratio - 1) <= TARGET else "no"
        table.add_row(name, *(f"{size / 1e9:.3f}" for size in sizes), f"{ratio:.3f}", verdict)
    say(table)


def main() -> None:
    """Measure every setting; or, as a part of that, one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=8, help="rows of a step")
    parser.add_argument("--length", type=int, default=256, help="tokens of each")
    parser.add_argument("--kept", action="store_true", help="keep freed memory, as runs do")
    parser.add_argument("--setting", choices=SETTINGS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.setting:
        growth = measure(
            asked.setting, batch=asked.batch, length=asked.length, keep_freed=asked.kept
        )
        asked.result.write_text(json.dumps(asdict(growth)))
        return
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    with tempfile.TemporaryDirectory() as folder:
        show_growth({name: measured_apart(name, asked, Path(folder)) for name in SETTINGS})


if __name__ == "__main__":
    main()
