"""Training speed in real tokens/s: this code against BF16 LoRA and against a plain script.

    python -m experiments.bench_training [--rounds 3] [--steps 16]

Every arm trains the embedded model on the same ragged procedural rows, in the same batch size,
with the same LoRA and in the same float32 arithmetic. A token is real when it is not padding. Each
measurement is a process of its own, so that peak memory is that of the arm. The arms take turns,
and each step counts with its fastest time over the rounds: an arm's steps are the same in every
round, so what other processes took from the machine drops out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qlora_repro.console import say

ROOT = Path(__file__).resolve().parent.parent
MODEL = "smollm2_135m"
COMMON = (f"model={MODEL}", "train.save_steps=0")


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    title: str
    plain: bool  # the plain script
    overrides: tuple[str, ...]  # of the configuration


ARMS = {
    "a": Arm("plain script, NF4 + DQ", True, ("dtype=nf4", "dq=true")),
    "b": Arm("plain script, 16-bit LoRA", True, ("dtype=bf16", "dq=false")),
    "c": Arm("ours, BF16 LoRA", False, ("dtype=bf16", "dq=false")),
    "d": Arm("ours, NF4 + DQ, bnb", False, ("dtype=nf4", "dq=true")),
    "e": Arm(
        "ours, NF4 + DQ, simulated", False, ("dtype=nf4", "dq=true", "dtype.backend=simulated")
    ),
}
# (arm, baseline, what the ratio must reach; None: told, no target)
RATIOS = (("d", "a", 1.5), ("e", "b", 1.5), ("c", "b", 1.5), ("d", "c", None), ("e", "c", 0.95))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One arm in one round."""

    seconds: list[float]  # of each step
    tokens: int  # real ones
    computed: int  # positions that went through the model, padding included
    peak_memory: int  # bytes

    @property
    def speed(self) -> float:
        """Return real tokens per second."""
        return self.tokens / sum(self.seconds)


def best(rounds: Sequence[Measured]) -> float:
    """Return real tokens per second, each step at its fastest."""
    return rounds[0].tokens / sum(map(min, zip(*(m.seconds for m in rounds), strict=True)))


def measure(name: str, *, steps: int) -> Measured:
    """Train one arm for so many steps, after one step of warming up on other rows."""
    import torch

    from experiments.plain_script import plain_model, train_plainly
    from experiments.step_clock import StepClock
    from qlora_repro.data.sources import examples
    from qlora_repro.train.memory import MemoryPeak
    from qlora_repro.train.stage import encoded

    arm = ARMS[name]
    cfg = configuration((*COMMON, *arm.overrides, f"train.max_steps={steps}"))
    model, tokenizer = (plain_model if arm.plain else our_model)(cfg)
    size = cfg.train.batch_size
    rows = encoded(examples(cfg.data), tokenizer, model=cfg.model, cfg=cfg.data)
    timed, warming = rows[: steps * size], rows[-size:]
    peak = MemoryPeak(next(model.parameters()).device)
    run = train_plainly if arm.plain else train_as_we_do
    run(cfg, model, tokenizer, warming, watch=[])
    torch.manual_seed(0)
    clock = StepClock()
    counted: list[int] = []
    count = model.get_input_embeddings().register_forward_pre_hook(
        lambda _, ids: counted.append(ids[0].numel())
    )
    run(cfg, model, tokenizer, timed, watch=[clock])
    count.remove()
    return Measured(
        seconds=clock.seconds,
        tokens=sum(map(len, timed)),
        computed=sum(counted),
        peak_memory=peak.bytes(),
    )


def configuration(overrides: Sequence[str]) -> Any:
    """Return the RunConfig that `python run.py` would compose."""
    from hydra import compose, initialize_config_dir

    from qlora_repro.checks import parse

    os.environ["QLORA_REPRO_ROOT"] = str(ROOT)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return parse(compose("config", list(overrides)), written=set())


def our_model(cfg: Any) -> tuple[Any, Any]:
    """Return the model and tokenizer as the pipeline makes them."""
    from qlora_repro.live import Live

    loaded = Live(cfg, Path(os.devnull)).trainable()
    return loaded.model, loaded.tokenizer


def train_as_we_do(
    cfg: Any, model: Any, tokenizer: Any, rows: Sequence[Any], *, watch: list[Any]
) -> None:
    """Run the pipeline's training over the rows once."""
    from qlora_repro.train.loop import Job, train
    from qlora_repro.train.stage import collator

    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            rows=rows,
            collate=collator(model, tokenizer, kind=cfg.model.kind, packing=cfg.train.packing),
            compute_dtype=cfg.dtype.compute_dtype,
            seed=cfg.seed,
            folder=Path(folder),
            watch=watch,
        )
        train(model, job, cfg=replace(cfg.train, max_steps=len(rows) // cfg.train.batch_size))


def measured_apart(name: str, *, steps: int, folder: Path) -> Measured:
    """Measure one arm in a process of its own; its output is shown only when it fails."""
    result = folder / "measured.json"
    command = [sys.executable, "-m", "experiments.bench_training"]
    words = [*command, "--arm", name, "--result", str(result), "--steps", str(steps)]
    ours = {} if ARMS[name].plain else {"GOMP_SPINCOUNT": "2000"}  # as run.py sets it
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=os.environ | ours)
    if done.returncode:
        say(done.stdout, done.stderr)
        raise SystemExit(f"arm {name} failed")
    return Measured(**json.loads(result.read_text()))


def show(rounds: dict[str, list[Measured]]) -> None:
    """Print the arms, then the ratios of their speeds."""
    from rich.table import Table

    table = Table(title="training speed; a token is real when it is not padding")
    for heading in ("", "arm", "real tokens/s", "whole rounds", "padding", "peak memory"):
        table.add_column(heading, justify="left" if heading in ("", "arm") else "right")
    for name, found in rounds.items():
        padding = 1 - sum(m.tokens for m in found) / sum(m.computed for m in found)
        memory = max(m.peak_memory for m in found) / 1e9
        whole = [f"{m.speed:.0f}" for m in sorted(found, key=lambda m: m.speed)]
        words = (f"{best(found):.0f}", ", ".join(whole), f"{padding:.0%}", f"{memory:.2f} GB")
        table.add_row(name, ARMS[name].title, *words)
    say(table)
    table = Table(title="ratios of real tokens/s")
    for heading in ("", "of", "to", "ratio", "target"):
        table.add_column(heading)
    for arm, baseline, target in RATIOS:
        ratio = best(rounds[arm]) / best(rounds[baseline])
        verdict = ""
        if target is not None:
            verdict = f"at least {target:.2f}: {'met' if ratio >= target else 'missed'}"
        titles = (ARMS[arm].title, ARMS[baseline].title)
        table.add_row(f"{arm}/{baseline}", *titles, f"{ratio:.2f}", verdict)
    say(table)


def main() -> None:
    """Measure every arm in turn, so many rounds; or, as a part of that, one arm."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps of one measurement")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.arm:
        asked.result.write_text(json.dumps(asdict(measure(asked.arm, steps=asked.steps))))
        return
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    rounds: dict[str, list[Measured]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, asked.rounds + 1):
            for name, arm in ARMS.items():
                rounds[name].append(measured_apart(name, steps=asked.steps, folder=Path(folder)))
                speed = rounds[name][-1].speed
                say(f"round {number}/{asked.rounds}: {arm.title}: {speed:.0f} real tokens/s")
    show(rounds)


if __name__ == "__main__":
    main()
