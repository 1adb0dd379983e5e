"""Training speed in real tokens/s: against BF16 LoRA, a plain script and TRL's SFTTrainer.

    python -m experiments.bench_training [--rounds 3] [--steps 16]

Every arm trains the embedded model on the same ragged procedural rows, in the same batch size and
with the same LoRA, in float32; where the processor multiplies bfloat16 natively, some in that too.
TRL is an extra, pip install -c constraints.txt -e '.[trl]'; its arms are left out without. A token
is real when it is not padding. Each measurement is a process of its own, so that peak memory is
that of the arm. The arms take turns, and each step counts with its fastest time over the rounds: an
arm's steps are the same in every round, so what other processes took from the machine drops out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
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
    how: str  # ours, plain (the plain script) or trl
    overrides: tuple[str, ...]  # of the configuration
    dtype: str = "float32"  # what it computes in


NF4, LORA_16 = ("dtype=nf4", "dq=true"), ("dtype=bf16", "dq=false")
SIMULATED = (*NF4, "dtype.backend=simulated")
BF16 = "bfloat16"
VARIANTS = {
    "a": Arm("plain script, NF4 + DQ", "plain", NF4),
    "b": Arm("plain script, 16-bit LoRA", "plain", LORA_16),
    "c": Arm("ours, BF16 LoRA", "ours", LORA_16),
    "d": Arm("ours, NF4 + DQ, bnb", "ours", NF4),
    "e": Arm("ours, NF4 + DQ, simulated", "ours", SIMULATED),
    "f": Arm("TRL, NF4 + DQ", "trl", NF4),
    "g": Arm("TRL, NF4 + DQ, in bfloat16", "trl", NF4, BF16),
    "h": Arm("ours, NF4 + DQ, bnb, in bfloat16", "ours", NF4, BF16),
    "i": Arm("ours, NF4 + DQ, simulated, in bfloat16", "ours", SIMULATED, BF16),
}
PRODUCTS = (  # operators that multiply matrices
    *("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::baddbmm_"),
    *("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::mkldnn_linear"),
    *("mkldnn::_linear_pointwise", "aten::_addmm_activation"),
)
PRODUCTS_TARGET = 0.55
# (arm, baseline, what the ratio must reach; None: told, no target)
RATIOS = (
    *(("d", "a", 1.5), ("e", "b", 1.5), ("c", "b", 1.5), ("d", "c", None), ("e", "c", 0.95)),
    *(("d", "f", 1.8), ("e", "f", None), ("h", "g", 2.2), ("i", "g", None)),
    *(("h", "d", None), ("i", "e", None)),
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One arm in one round."""

    seconds: list[float]  # of each step
    tokens: int  # real ones
    computed: int  # positions that went through the model, padding included
    peak_memory: int  # bytes
    products: float  # share of the processor time of two more steps that is in matrix products

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

    from experiments.plain_script import plain_model
    from experiments.step_clock import StepClock
    from qlora_repro.data.datasets import load_examples
    from qlora_repro.data.tokenization import encode_examples
    from qlora_repro.train.memory import PeakMemory

    arm = VARIANTS[name]
    how = (f"dtype.compute_dtype={arm.dtype}", f"train.max_steps={steps}")
    cfg = configuration((*COMMON, *arm.overrides, *how))
    model, tokenizer = (our_model if arm.how == "ours" else plain_model)(cfg)
    size = cfg.train.batch_size
    rows = encode_examples(load_examples(cfg.data), tokenizer, cfg.data, kind="causal")
    timed, warming = rows[: steps * size], rows[-size:]
    peak = PeakMemory(next(model.parameters()).device)
    run = training(arm.how)
    run(cfg, model, tokenizer, warming, watch=[])
    torch.manual_seed(0)
    clock = StepClock()
    counted: list[int] = []
    count = model.get_input_embeddings().register_forward_pre_hook(
        lambda _, ids: counted.append(ids[0].numel())
    )
    run(cfg, model, tokenizer, timed, watch=[clock])
    count.remove()
    most = peak.peak_bytes()
    return Measured(
        seconds=clock.seconds,
        tokens=sum(map(len, timed)),
        computed=sum(counted),
        peak_memory=most,
        products=product_share(lambda: run(cfg, model, tokenizer, timed[: 2 * size], watch=[])),
    )


def product_share(call: Callable[[], None]) -> float:
    """Return the share of a call's time in operators that is in matrix products, [0, 1]."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
        call()
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    operators = {key: time for key, time in times.items() if "::" in key}
    return sum(operators.get(name, 0.0) for name in PRODUCTS) / sum(operators.values())


def training(how: str) -> Callable[..., None]:
    """Return what trains a model over rows, as an arm's `how` names it."""
    if how == "ours":
        return train_as_we_do
    if how == "trl":
        from experiments.trl_script import train_with_trl

        return train_with_trl
    from experiments.plain_script import train_plainly

    return train_plainly


def left_out(arm: Arm) -> str:
    """Return why an arm cannot be measured here; empty where it can."""
    from qlora_repro.config.resolvers import native_dtype

    if arm.how == "trl" and find_spec("trl") is None:
        return "TRL is not installed; pip install -c constraints.txt -e '.[trl]'"
    if arm.dtype == BF16 and native_dtype("auto") != BF16:
        return "this processor emulates bfloat16"
    return ""


def configuration(overrides: Sequence[str]) -> Any:
    """Return the RunConfig that `python run.py` would compose."""
    from hydra import compose, initialize_config_dir

    from qlora_repro.config.validate import parse_config

    os.environ["QLORA_REPRO_ROOT"] = str(ROOT)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return parse_config(compose("config", list(overrides)), written=set())


def our_model(cfg: Any) -> tuple[Any, Any]:
    """Return the model and tokenizer as the pipeline makes them."""
    from qlora_repro.session import ModelSession

    loaded = ModelSession(cfg, Path(os.devnull)).trainable()
    return loaded.model, loaded.tokenizer


def train_as_we_do(
    cfg: Any, model: Any, tokenizer: Any, rows: Sequence[Any], *, watch: list[Any]
) -> None:
    """Run the pipeline's training over the rows once."""
    from qlora_repro.stages.train import choose_collator
    from qlora_repro.train.trainer import TrainingInputs, train_model

    with tempfile.TemporaryDirectory() as folder:
        job = TrainingInputs(
            rows=rows,
            collate=choose_collator(
                model, tokenizer, kind=cfg.model.kind, packing=cfg.train.packing
            ),
            compute_dtype=cfg.dtype.compute_dtype,
            seed=cfg.seed,
            folder=Path(folder),
            callbacks=watch,
        )
        train_model(model, job, cfg=replace(cfg.train, max_steps=len(rows) // cfg.train.batch_size))


def measured_apart(name: str, *, steps: int, folder: Path) -> Measured:
    """Measure one arm in a process of its own; its output is shown only when it fails."""
    result = folder / "measured.json"
    command = [sys.executable, "-m", "experiments.bench_training"]
    columns = [*command, "--arm", name, "--result", str(result), "--steps", str(steps)]
    ours = {"GOMP_SPINCOUNT": "2000"} if VARIANTS[name].how == "ours" else {}  # as run.py sets it
    done = subprocess.run(columns, cwd=ROOT, capture_output=True, text=True, env=os.environ | ours)
    if done.returncode:
        say(done.stdout, done.stderr)
        raise SystemExit(f"arm {name} failed")
    return Measured(**json.loads(result.read_text()))


def show_rounds(rounds: dict[str, list[Measured]]) -> None:
    """Print the arms, then the ratios of their speeds."""
    from rich.table import Table

    table = Table(title="training speed; a token is real when it is not padding")
    heads = ("", "arm", "real tokens/s", "whole rounds", "padding", "in products", "peak memory")
    for heading in heads:
        table.add_column(heading, justify="left" if heading in ("", "arm") else "right")
    for name, measurements in rounds.items():
        padding = 1 - sum(m.tokens for m in measurements) / sum(m.computed for m in measurements)
        memory = max(m.peak_memory for m in measurements) / 1e9
        speeds = [f"{m.speed:.0f}" for m in sorted(measurements, key=lambda m: m.speed)]
        products = f"{max(m.products for m in measurements):.0%}"
        columns = (f"{best(measurements):.0f}", ", ".join(speeds), f"{padding:.0%}", products)
        columns += (f"{memory:.2f} GB",)
        table.add_row(name, VARIANTS[name].title, *columns)
    say(table)
    say(
        f"a step of ours is to be in matrix products for at least {PRODUCTS_TARGET:.0%} of its time"
    )
    table = Table(title="ratios of real tokens/s")
    for heading in ("", "of", "to", "ratio", "target"):
        table.add_column(heading)
    for arm, baseline, target in RATIOS:
        if not {arm, baseline} <= rounds.keys():
            continue
        ratio = best(rounds[arm]) / best(rounds[baseline])
        verdict = ""
        if target is not None:
            verdict = f"at least {target:.2f}: {'met' if ratio >= target else 'missed'}"
        titles = (VARIANTS[arm].title, VARIANTS[baseline].title)
        table.add_row(f"{arm}/{baseline}", *titles, f"{ratio:.2f}", verdict)
    say(table)


def main() -> None:
    """Measure every arm in turn, so many rounds; or, as a part of that, one arm."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps of one measurement")
    parser.add_argument("--arm", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.arm:
        asked.result.write_text(json.dumps(asdict(measure(asked.arm, steps=asked.steps))))
        return
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the start")
    chosen = {name: arm for name, arm in VARIANTS.items() if not left_out(arm)}
    for name in VARIANTS.keys() - chosen.keys():
        say(f"{name}, {VARIANTS[name].title}: left out: {left_out(VARIANTS[name])}")
    rounds: dict[str, list[Measured]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, asked.rounds + 1):
            for name, arm in chosen.items():
                rounds[name].append(measured_apart(name, steps=asked.steps, folder=Path(folder)))
                speed = rounds[name][-1].speed
                say(f"round {number}/{asked.rounds}: {arm.title}: {speed:.0f} real tokens/s")
    show_rounds(rounds)


if __name__ == "__main__":
    main()
