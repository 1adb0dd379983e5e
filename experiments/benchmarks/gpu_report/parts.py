"""The parts of the report that run in the worker: what each does and measures.

A part takes the bench it runs on and fills a `PartReport` as it goes, so that what was measured
before a part failed or ran out of time is kept. What needs CUDA raises NeedsGpuError without it.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from experiments.bench_training import configuration
from experiments.benchmarks.gpu_report.managed_memory import move_pages
from experiments.benchmarks.gpu_report.timed_training import (
    Arm,
    Base,
    Bench,
    Padding,
    attach,
    detach,
    free_memory,
    make_base,
    random_rows,
    train_arm,
    train_plain_arm,
)
from qlora_repro import pipeline
from qlora_repro.config.registry import BNB_BLOCKSIZES
from qlora_repro.config.schema import RunConfig
from qlora_repro.memory.breakdown import optimizer_bytes
from qlora_repro.memory.settings import plan_run
from qlora_repro.stages.train import choose_collator
from qlora_repro.train.paging import paged_bytes
from qlora_repro.train.trainer import TrainingInputs, train_model

SHARE_OF_FREE = 0.8  # the most managed memory that a part asks for, of what the card has free
REPEATS = 3


class NeedsGpuError(Exception):
    """The part measures something that only a GPU has."""


@dataclass
class PartReport:
    """What a part has measured so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def need_gpu(bench: Bench) -> None:
    """Raise NeedsGpuError on a machine without one."""
    if not bench.cuda:
        raise NeedsGpuError("needs CUDA; there is no GPU here")


def measure_rates(bench: Bench) -> dict[str, float]:
    """Return the card's speed: products in TFLOP/s, copies in GB/s read and written."""
    n = 256 if bench.tiny else 8192
    rates = {}
    for name, dtype in (
        ("matmul_bf16_tflops", torch.bfloat16),
        ("matmul_fp32_tflops", torch.float32),
    ):
        a, b = (torch.randn(n, n, device=bench.device, dtype=dtype) for _ in range(2))
        rates[name] = 2 * n**3 / _fastest(bench, lambda a=a, b=b: a @ b) / 1e12
    source = torch.ones(n * n * 4, device=bench.device)
    target = torch.empty_like(source)
    rates["copy_gb_per_s"] = 2 * source.nbytes / _fastest(bench, lambda: target.copy_(source)) / 1e9
    return rates


def _fastest(bench: Bench, call: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of some calls, each waited for."""
    times = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        call()
        if bench.cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def compare_codes(bench: Bench, report: PartReport) -> None:
    """Codes, constants and products of bitsandbytes on CPU and GPU, for the same weights."""
    need_gpu(bench)
    torch.manual_seed(0)
    weight = torch.randn(64, 4096)
    with torch.compiler.set_stance("force_eager"):  # the CPU's kernels would compile for a minute
        _compare_codes(bench, report, weight)


def _compare_codes(bench: Bench, report: PartReport, weight: torch.Tensor) -> None:
    for dtype, size, dq in itertools.product(("nf4", "fp4"), BNB_BLOCKSIZES, (False, True)):
        if bench.seconds_left() < 2:
            report.facts["left out"] = f"{dtype} from blocks of {size} on: no time"
            return
        how: dict[str, Any] = {"blocksize": size, "quant_type": dtype, "compress_statistics": dq}
        host, host_state = quantize_4bit(weight, **how)
        card, card_state = quantize_4bit(weight.to(bench.device), **how)
        constants = (host_state.absmax, card_state.absmax.cpu())
        read = dequantize_4bit(card, card_state).cpu()
        expected = dequantize_4bit(host, host_state)
        differ = (read - expected).abs() > 1e-6 * expected.abs().clamp_min(1e-3)
        report.rows.append(
            {
                "type": dtype,
                "block": size,
                "dq": dq,
                "weights": weight.numel(),
                "codes that differ": _nibbles_that_differ(host, card.cpu()),
                "constants that differ": int((constants[0] != constants[1]).sum()),
                "constants": constants[0].numel(),
                "values that differ": int(differ.sum()),
                "largest difference": float((read - expected).abs().max()),
                "product off by": _product_error(card, card_state, bench),
            }
        )


def _nibbles_that_differ(one: torch.Tensor, two: torch.Tensor) -> int:
    """Return how many 4-bit codes of two packed tensors are unequal."""
    odd = (one ^ two).flatten()
    return int(((odd & 15) != 0).sum() + ((odd >> 4) != 0).sum())


def _product_error(packed: torch.Tensor, state: Any, bench: Bench) -> float:
    """Return how far a 4-bit product in bf16 is from the product with the dequantized weight.

    Norm of the difference over the norm, for one row and for 64, which have kernels of their own.
    """
    weight = dequantize_4bit(packed, state).bfloat16()
    state.dtype = torch.bfloat16
    layer = Linear4bit(weight.shape[1], weight.shape[0], bias=False, compute_dtype=torch.bfloat16)
    worst = 0.0
    for rows in (1, 64):
        x = torch.randn(rows, weight.shape[1], device=bench.device, dtype=torch.bfloat16)
        layer.weight.data, layer.weight.quant_state = packed, state
        exact = x.float() @ weight.float().T
        with torch.no_grad():
            off = (layer(x).float() - exact).norm() / exact.norm()
        worst = max(worst, float(off))
    return worst


def measure_constants(bench: Bench, report: PartReport) -> None:
    """Bits a parameter by the allocator, with double quantization and without (Section 3)."""
    need_gpu(bench)
    n = 4096
    for dq, stated in ((False, 4.5), (True, 4.127)):
        free_memory()
        weight = torch.randn(n, 4 * n, device=bench.device, dtype=torch.bfloat16)
        before = torch.cuda.memory_allocated()
        held = quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=dq)
        bits = 8 * (torch.cuda.memory_allocated() - before) / weight.numel()
        off = bits / stated - 1
        report.rows.append(
            {"dq": dq, "bits a parameter": bits, "stated": stated, "off by %": 100 * off}
        )
        assert abs(off) < 0.005, f"{bits:.4f} bits a parameter, and {stated} are stated"
        del held


class MovePages(TrainerCallback):
    """Send the paged states to the host after each step, and back before the next; time both."""

    def __init__(self) -> None:
        self.moves: list[tuple[int, float]] = []  # bytes, seconds

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move out and in again."""
        for to_host in (True, False):
            torch.cuda.synchronize()
            began = time.perf_counter()
            moved = move_pages(to_host=to_host)
            self.moves.append((moved, time.perf_counter() - began))


def check_managed_room(cfg: RunConfig) -> None:
    """Refuse to page more than the card has free: it can hang a GPU that others share."""
    wanted = optimizer_bytes(plan_run(cfg))
    free, _ = torch.cuda.mem_get_info()
    if wanted > SHARE_OF_FREE * free:
        raise RuntimeError(
            f"paged states would take {wanted / 1e9:.1f} GB and the card has {free / 1e9:.1f} GB "
            "free; a card of your own may try --oversubscribe"
        )


def train_65b(bench: Bench, report: PartReport) -> None:
    """65B's shape, three steps of one row of 512, rank 64, paged AdamW: memory against the plan."""
    cfg = bench.configure(
        *("llama_65b", "train.batch_size=1", "train.micro_batch_size=1"),
        *("train.gradient_checkpointing=true", "lora.dtype=bfloat16", "lora.dropout=0"),
    )
    base = make_base(bench, cfg)
    report.facts["seconds to make the base"] = base.seconds
    if bench.cuda:
        report.facts["base_bytes"] = torch.cuda.memory_allocated()
        if not bench.oversubscribe:
            check_managed_room(cfg)
    plain = train_arm(bench, base, cfg, steps=3)
    report.rows.append(_memory_row("as it is", plain))
    if not bench.cuda:
        report.facts["paging"] = "not shown: nothing pages on a CPU"
        return
    again = train_arm(bench, base, cfg, steps=3)
    moves = MovePages()
    moved = train_arm(bench, base, cfg, steps=3, watch=[moves])
    report.rows.append(_memory_row("states moved to the host and back after each step", moved))
    noise, apart = _largest_gap(plain, again), _largest_gap(plain, moved)
    out, back = moves.moves[0::2], moves.moves[1::2]
    report.facts |= {
        "losses apart, nats": apart,
        "losses of two equal runs apart, nats": noise,
        "moved each way_bytes": out[-1][0],
        "out GB/s": statistics.median(size / seconds / 1e9 for size, seconds in out),
        "back GB/s": statistics.median(size / seconds / 1e9 for size, seconds in back),
        "planned bus GB/s": cfg.plan.bus,
        "planned seconds each way": out[-1][0] / cfg.plan.bus / 1e9,
        "seconds out": statistics.median(seconds for _, seconds in out),
        "seconds back": statistics.median(seconds for _, seconds in back),
        "managed after_bytes": paged_bytes(),
    }
    # Attention's backward pass adds in any order, so equal runs differ by the noise of the card.
    assert apart <= max(10 * noise, 1e-3), f"losses are {apart} apart, equal runs' {noise}"


def _largest_gap(one: Arm, two: Arm) -> float:
    """Return how far the losses of two trainings are apart at most, nats."""
    pairs = zip(one.result.steps, two.result.steps, strict=True)
    return max(abs(a.loss - b.loss) for a, b in pairs)


def _memory_row(what: str, arm: Arm) -> dict[str, Any]:
    result = arm.result
    row = {
        "what": what,
        "planned_bytes": arm.predicted,
        "allocator_bytes": result.peak_memory,
        "managed_bytes": result.paged_memory,
        "step_s": arm.step,
        "tokens/s": arm.tokens / arm.step,
    }
    if result.paged_memory is not None:  # on a CPU a process is measured, not an allocator
        row["measured / planned"] = arm.measured / arm.predicted
    return row


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to train 7B."""

    name: str
    dtype: tuple[str, ...]  # overrides
    micro: int = 16
    checkpointing: bool = True
    more: tuple[str, ...] = ()
    plain: bool = False


NF4_DQ, NF4 = ("dtype=nf4", "dq=true"), ("dtype=nf4", "dq=false")
BF16, FP4 = ("dtype=bf16",), ("dtype=fp4", "dq=false")
LIGER, PACKED = ("train.kernels=liger",), ("train.packing=true",)
WAYS = (  # those on one base stand together, as its making takes seconds
    Way(name="BF16 LoRA", dtype=BF16),
    Way(name="BF16 LoRA, Liger", dtype=BF16, more=LIGER),
    Way(name="BF16 LoRA", dtype=BF16, micro=1),
    Way(name="NF4 + DQ", dtype=NF4_DQ),
    Way(name="plain script, NF4 + DQ", dtype=NF4_DQ, plain=True),
    Way(name="NF4 + DQ, Liger", dtype=NF4_DQ, more=LIGER),
    Way(name="NF4 + DQ", dtype=NF4_DQ, checkpointing=False),
    Way(name="NF4 + DQ, Liger", dtype=NF4_DQ, more=LIGER, checkpointing=False),
    Way(name="NF4 + DQ, packed", dtype=NF4_DQ, more=PACKED),
    Way(name="NF4 + DQ, packed, a mask", dtype=NF4_DQ, more=(*PACKED, "model.attention=sdpa")),
    Way(name="NF4 + DQ, PEFT's layers", dtype=NF4_DQ, more=("lora.fused=false",)),
    Way(name="NF4 + DQ, float32 adapters", dtype=NF4_DQ, more=("lora.dtype=float32",)),
    Way(name="NF4 + DQ", dtype=NF4_DQ, micro=1),
    Way(name="plain script, NF4 + DQ", dtype=NF4_DQ, micro=1, plain=True),
    Way(name="NF4 + DQ, Liger", dtype=NF4_DQ, micro=1, more=LIGER),
    Way(name="NF4 + DQ", dtype=NF4_DQ, micro=1, checkpointing=False),
    Way(name="NF4", dtype=NF4),
    Way(name="FP4", dtype=FP4),
)


ALIKE = [  # not in a dry run
    way for way in WAYS if way.micro == 1 or way.dtype in (NF4, FP4) or "mask" in way.name
]


def train_7b(bench: Bench, report: PartReport) -> None:
    """7B's shape in many ways: real tokens a second and peak memory.

    Batches are of 16 x 512, or in micro-batches of 1 of 8 x 512.
    """
    base: Base | None = None
    no_liger = not bench.cuda or find_spec("liger_kernel") is None
    if no_liger:
        report.facts["Liger"] = "its ways are left out: it needs a GPU and the package liger-kernel"
    for way in WAYS:
        if (no_liger and way.more == LIGER) or (bench.tiny and way in ALIKE):
            continue
        if bench.seconds_left() < (1 if bench.tiny else 12):
            report.facts.setdefault("left out", "no time: ")
            report.facts["left out"] += f"{way.name}, {way.micro}; "
            continue
        cfg = _way_config(bench, way)
        if base is None or base.cfg.dtype != cfg.dtype or base.cfg.dq != cfg.dq:
            base = None
            free_memory()
            base = make_base(bench, cfg)
        try:
            report.rows.append(_try_way(bench, base, cfg, way))
        except Exception as error:  # noqa: BLE001  # the other ways are measured all the same
            report.rows.append({**_way_row(way), "failed": " ".join(str(error).split())[:200]})
            base = None  # it may have been left with adapters on
    _compare_ways(report)


def _way_config(bench: Bench, way: Way) -> RunConfig:
    size = 2 if bench.tiny else 16 if way.micro > 1 else 8
    return bench.configure(
        *("llama_7b", "lora.dtype=bfloat16", "lora.dropout=0", *way.dtype, *way.more),
        *(f"train.batch_size={size}", f"train.micro_batch_size={min(way.micro, size)}"),
        f"train.gradient_checkpointing={str(way.checkpointing).lower()}",
    )


def _way_row(way: Way) -> dict[str, Any]:
    return {"way": way.name, "micro-batch": way.micro, "checkpointing": way.checkpointing}


def _try_way(bench: Bench, base: Base, cfg: RunConfig, way: Way) -> dict[str, Any]:
    row = _way_row(way)
    if way.plain:
        plain = train_plain_arm(bench, base, cfg, steps=2)
        step = min(plain["seconds"][1:] or plain["seconds"])
        tokens = cfg.train.batch_size * bench.length
        return row | {"tokens/s": tokens / step, "step_s": step, "measured_bytes": plain["peak"]}
    arm = train_arm(bench, base, cfg, steps=3 if way.micro > 1 and not bench.tiny else 2)
    memory = {"measured_bytes": arm.measured, "planned_bytes": arm.predicted}
    ratio = {"measured / planned": arm.measured / arm.predicted} if bench.cuda else {}
    speed = {"tokens/s": arm.tokens / arm.step, "step_s": arm.step}
    return row | speed | memory | ratio | {"loss of step 2, nats": arm.result.steps[1].loss}


def _compare_ways(report: PartReport) -> None:
    """Set the ratios that have targets beside them."""
    speeds = {
        (row["way"], row["micro-batch"], row["checkpointing"]): row["tokens/s"]
        for row in report.rows
        if "tokens/s" in row
    }
    for micro in (16, 1):
        ours = speeds.get(("NF4 + DQ", micro, True))
        for other, target in (("BF16 LoRA", 1.0), ("plain script, NF4 + DQ", 1.3)):
            theirs = speeds.get((other, micro, True))
            if ours and theirs:
                name = f"NF4 + DQ / {other}, micro-batch {micro} (target {target})"
                report.facts[name] = ours / theirs
        liger = speeds.get(("NF4 + DQ, Liger", micro, True))
        for other in ("BF16 LoRA, Liger", "plain script, NF4 + DQ"):
            theirs = speeds.get((other, micro, True))
            if liger and theirs:
                report.facts[f"NF4 + DQ, Liger / {other}, micro-batch {micro}"] = liger / theirs
    by_row, masked = (speeds.get((f"NF4 + DQ, packed{how}", 16, True)) for how in ("", ", a mask"))
    if by_row and masked:
        report.facts["packed rows one by one / behind a mask"] = by_row / masked
    off = [abs(row["measured / planned"] - 1) for row in report.rows if "measured / planned" in row]
    if off:
        report.facts["largest distance of measured from planned memory, %"] = 100 * max(off)


def measure_figure_6(bench: Bench, report: PartReport) -> None:
    """Memory of QLoRA at three sizes, one row of 512 with checkpointing, as Figure 6 has it."""
    for model in ("llama_7b",) if bench.tiny else ("llama_7b", "llama_13b", "llama_33b"):
        if bench.seconds_left() < (1 if bench.tiny else 8):
            report.facts["left out"] = f"{model} and larger: no time"
            return
        cfg = bench.configure(
            *(model, "train.batch_size=1", "train.micro_batch_size=1", "lora.dropout=0"),
            *("train.gradient_checkpointing=true", "lora.dtype=bfloat16"),
        )
        base = make_base(bench, cfg)
        report.rows.append(_memory_row(model, train_arm(bench, base, cfg, steps=2)))
        del base
        free_memory()


class Stop(TrainerCallback):
    """End a training after a step, as a killed process ends."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raise at the step."""
        if state.global_step == self.step:
            raise InterruptedError(f"stopped after step {self.step}")


def resume_while_paging(bench: Bench, report: PartReport) -> None:
    """A run with paged states that ends half way and is taken up; pages after two cells."""
    cfg = bench.configure(
        *("llama_7b", "model.architecture.num_hidden_layers=2", "dtype=nf4", "dq=true"),
        *("train.batch_size=2", "train.micro_batch_size=1", "train.save_steps=2"),
        *("lora.dtype=bfloat16", "lora.dropout=0.1", "train.max_steps=6"),
        "train.gradient_checkpointing=true",
    )
    base = make_base(bench, cfg)
    rows = random_rows(12, length=bench.length, vocabulary=base.model.config.vocab_size)

    def run(folder: Path, watch: list[Any]) -> dict[str, torch.Tensor]:
        model = attach(base, cfg)
        try:
            job = TrainingInputs(
                rows=rows,
                collate=choose_collator(model, Padding, kind="causal", packing=False),
                compute_dtype=cfg.dtype.compute_dtype,
                seed=0,
                folder=folder,
                callbacks=watch,
            )
            result = train_model(model, job, cfg=cfg.train)
            report.facts["resumed from step"] = result.resumed_from
            report.facts["paged_bytes"] = result.paged_memory
            named = model.named_parameters()
            return {n: p.detach().cpu().clone() for n, p in named if p.requires_grad}
        finally:
            detach(base, model)

    watch = [MovePages()] if bench.cuda else []
    intact = run(bench.folder / "whole", [])
    try:
        run(bench.folder / "cut", [*watch, Stop(5)])
    except InterruptedError:
        report.facts["ended after step"] = 5
    report.facts["managed after a run that was ended_bytes"] = paged_bytes()
    resumed = run(bench.folder / "cut", list(watch))
    report.facts["managed after two cells_bytes"] = paged_bytes()
    differing = [name for name in intact if not torch.equal(intact[name], resumed[name])]
    report.facts["adapters equal"] = not differing
    distance = max(float((intact[n] - resumed[n]).abs().max()) for n in intact)
    report.facts["largest difference of a weight"] = distance
    assert paged_bytes() == 0, f"{paged_bytes()} bytes of managed memory were left"


def measure_noise(bench: Bench, report: PartReport) -> None:
    """Two equal runs: how far apart are their losses, and their scores on other rows."""
    cfg = bench.configure(
        *("llama_7b", "model.architecture.num_hidden_layers=4", "dtype=nf4", "dq=true"),
        *("train.batch_size=4", "train.micro_batch_size=4", "lora.dropout=0.1"),
        *("lora.dtype=bfloat16", "train.gradient_checkpointing=false", "train.lr=1e-3"),
    )
    base = make_base(bench, cfg)
    steps = 2 if bench.tiny else 20
    repeats = [train_arm(bench, base, cfg, steps=steps) for _ in range(2)]
    one, two = ([step.loss for step in arm.result.steps] for arm in repeats)
    gaps = [abs(a - b) for a, b in zip(one, two, strict=True)]
    for number, (a, b) in enumerate(zip(one, two, strict=True), 1):
        report.rows.append({"step": number, "loss": a, "again": b, "difference": abs(a - b)})
    weights = [arm.adapters for arm in repeats]
    moved = sum(float((weights[0][n] - weights[1][n]).abs().sum()) for n in weights[0])
    report.facts |= {
        "first step that differs": next((n for n, gap in enumerate(gaps, 1) if gap), None),
        "largest difference of losses, nats": max(gaps),
        "adapters equal": moved == 0,
    }


def rescore_from_store(bench: Bench, report: PartReport) -> None:
    """A tuned model scored in memory, then read back from the store and scored again."""
    results = bench.folder / "results"
    compute = "bfloat16" if bench.cuda else "float32"
    for full in (False, True):
        ways = ("lora=none", "dtype=bf16", "train=full") if full else ("dtype=nf4", "lora.r=8")
        cfg = configuration(
            (
                *("model=tiny", *ways, f"model.device={bench.device.type}", "eval.n=2"),
                *(f"results_dir={results}", f"dtype.compute_dtype={compute}", "train.lr=0.01"),
            )
        )
        first = pipeline.run_stages(cfg)
        folder = first.folder
        before = _answers(folder)
        for path in [*folder.glob("metrics-*.jsonl"), *folder.glob("answers-*.jsonl")]:
            path.unlink()
        pipeline.run_stages(replace(cfg, stages=["eval"]))
        after = _answers(folder)
        gaps = [abs(before[key] - after[key]) for key in before]
        report.rows.append(
            {
                "what": "full fine-tuning" if full else "adapter",
                "answers": len(before),
                "that differ": sum(gap > 0 for gap in gaps),
                "largest difference": max(gaps),
            }
        )
    different = sum(row["that differ"] for row in report.rows)
    assert different == 0, f"{different} answers differ between memory and store"


def _answers(folder: Path) -> dict[str, float]:
    """Return every scored answer by its task, name and question."""
    values = {}
    for path in folder.glob("answers-*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row["value"] is not None:
                values[f"{row['task']}/{row['name']}/{row['doc_id']}"] = float(row["value"])
    return values


METHODS = {  # with the learning rates that finding1_learning_rate chose
    "qlora_nf4_dq": None,
    "lora_bf16": None,
    "full_bf16": 1e-4,
}


def run_finding_1(bench: Bench, report: PartReport) -> None:
    """The arms of finding1_precision on the embedded model, as many seeds as fit."""
    model = "tiny" if bench.tiny else "smollm2_135m"
    longest, began = 0.0, time.monotonic()
    for seed in range(1000):
        for method, rate in METHODS.items():
            if bench.tiny and method == "lora_bf16":
                continue
            if bench.seconds_left() < 1.3 * longest + 2 or (bench.tiny and seed):
                report.facts["seeds"] = seed
                report.facts["seconds"] = time.monotonic() - began
                return
            started = time.monotonic()
            small = ("data.rows=8", "train.max_steps=2", "eval.n=1", "lora.r=8")
            real = ("data.rows=384", "train.max_steps=48", "eval.n=60")
            cfg = configuration(
                (
                    *(f"model={model}", f"model.device={bench.device.type}", f"method={method}"),
                    *(f"seed={seed}", f"results_dir={bench.folder / 'results'}"),
                    *("dtype.compute_dtype=float32", "train.save_steps=0"),
                    *(small if bench.tiny else real),
                    *(() if rate is None else (f"train.lr={rate}",)),
                )
            )
            outcome = pipeline.run_stages(cfg)
            scores = outcome.after.metrics if outcome.after else []
            values = {f"{m.task} {m.name}": m.value for m in scores if "/" not in m.task}
            seconds = time.monotonic() - started
            longest = max(longest, seconds)
            speed = outcome.training["tokens_per_second"] if outcome.training else None
            report.rows.append(
                {
                    "method": method,
                    "seed": seed,
                    "lr": cfg.train.lr,
                    "tokens/s": speed,
                    "cell_s": seconds,
                    **values,
                }
            )


@dataclass(frozen=True)
class Part:
    """A part of the report."""

    name: str
    limit: float  # s
    run: Callable[[Bench, PartReport], None]


PARTS = {
    2: Part("codes of CPU and GPU", 20, compare_codes),
    3: Part("bits of double quantization", 15, measure_constants),
    4: Part("65B in one card, paged", 75, train_65b),
    5: Part("7B, speed and memory", 110, train_7b),
    6: Part("Figure 6, measured", 40, measure_figure_6),
    7: Part("ended and resumed while paging", 25, resume_while_paging),
    8: Part("two equal runs", 25, measure_noise),
    9: Part("scores from memory and from the store", 30, rescore_from_store),
    10: Part("finding 1 on the embedded model", 240, run_finding_1),
}
