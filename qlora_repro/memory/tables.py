"""A plan as the user sees it: a table of parts, a line a GPU, the simulated paging, a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from qlora_repro.config.schema import PlanConfig
from qlora_repro.console import right_aligned
from qlora_repro.errors import RunError
from qlora_repro.memory.breakdown import FULL_FINETUNING_BYTES, bytes_paged_per_step
from qlora_repro.memory.prediction import MicroBatch
from qlora_repro.memory.remaining_work import (
    TFLOPS_HINT,
    RemainingWork,
    format_duration,
    format_unestimated,
)
from qlora_repro.memory.settings import usable_bytes
from qlora_repro.records import MemoryPlan

PAGED_STEPS = 3  # simulated
MISSING = "-"


def format_gb(size: int | None) -> str:
    """Return bytes in GB of 1e9, as every size here; a dash for what there is not.

    >>> format_gb(47_949_715_648), format_gb(0)
    ('47.95', '0.00')
    """
    return MISSING if size is None else f"{size / 1e9:.2f}"


def describe_run(plan: MemoryPlan) -> str:
    """Return what was planned in a line."""
    dtype = plan.dtype + (" + dq" if plan.dq else "") + (" (simulated)" * plan.simulated)
    lora = "full fine-tuning" if plan.r is None else f"lora {plan.lora} r={plan.r}"
    model = f"stand-in {plan.model}" if plan.stand_in else plan.model
    return f"{model}, {dtype}, {lora}, {plan.rows} x {plan.length} tokens, {plan.optim}"


def build_breakdown_table(plan: MemoryPlan) -> Table:
    """Return the parts of training and of inference, GB."""
    parts: list[tuple[str, int | None, int | None]] = [
        ("weights", plan.weights, plan.weights),
        ("quantization scales", plan.scales, plan.scales),
        ("adapters", plan.adapter_weights, plan.adapter_weights),
        ("gradients", plan.gradients, None),
        ("optimizer states", plan.optimizer, None),
        ("16-bit copies of what trains", plan.copies, None),
        ("activations with gradient checkpointing", plan.activations_checkpointed, None),
        ("activations without", plan.activations_unchecked, plan.inference_activations),
        ("keys and values", None, plan.cache),
        ("logits and loss", plan.logits, plan.inference_logits),
    ]
    table = Table("GB", *right_aligned("training", "inference"))
    for name, training, inference in parts:
        table.add_row(name, format_gb(training), format_gb(inference))
    table.add_section()
    way = "with" if plan.checkpointing else "without"
    peaks = format_gb(plan.peak), format_gb(plan.inference_peak)
    table.add_row(f"peak ({way} checkpointing)", *peaks)
    return table


def describe_plan(
    plan: MemoryPlan, cfg: PlanConfig, *, micro_batches: Mapping[int, MicroBatch] | None = None
) -> list[str]:
    """Return what the table does not say: counts, the moment of the peak, cards, paging.

    `micro_batches` has that of each card where the run leaves it to the planner.
    """
    bits = "" if plan.bits is None else f", {plan.bits:.3f} bits a quantized parameter"
    lines = [
        f"{plan.params / 1e9:.3f} B parameters{bits}; {plan.trained / 1e6:.1f} M train",
        f"the peak of training comes at {plan.when}; parts that take turns do not add up to it",
    ]
    if plan.r is None:
        lines.append(
            f"16-bit full fine-tuning as the paper counts it, {FULL_FINETUNING_BYTES} bytes a "
            f"parameter: {format_gb(FULL_FINETUNING_BYTES * plan.params)} GB; here what trains is "
            "held in float32"
        )
    for card in cfg.gpus:
        lines.append(describe_card(plan, card, cfg, micro_batch=(micro_batches or {}).get(card)))
    return lines + describe_spread(plan, cfg) + describe_paging(plan, cfg)


def describe_card(
    plan: MemoryPlan, card: int, cfg: PlanConfig, *, micro_batch: MicroBatch | None = None
) -> str:
    """Return which of training and inference a card holds, and by what micro-batch it trains."""
    usable = usable_bytes(card, cfg)
    training = "holds it" if plan.peak <= usable else "does not hold it"
    if least_training_bytes(plan) <= usable < plan.peak:
        training = "holds it with optimizer states paged out"
    if micro_batch is not None and training != "does not hold it":
        training += f" ({micro_batch.describe()})"
    inference = "holds it" if plan.inference_peak <= usable else "does not hold it"
    return (
        f"{card} GB card ({format_gb(usable)} GB for tensors): training {training}, "
        f"inference {inference}"
    )


def describe_spread(plan: MemoryPlan, cfg: PlanConfig) -> list[str]:
    """Return how many of the largest cards hold what one of them does not, in equal shares."""
    card = max(cfg.gpus, default=None)
    usable = usable_bytes(card, cfg) if card else 0
    needs = {"training": least_training_bytes(plan), "inference": plan.inference_peak}
    cards = {what: -(-size // usable) for what, size in needs.items() if 0 < usable < size}
    if not cards:
        return []
    counts = ", ".join(f"at least {count} for {what}" for what, count in cards.items())
    return [f"spread over {card} GB cards of one machine, model.device=spread: {counts}"]


def is_paged(plan: MemoryPlan) -> bool:
    """Whether the optimizer is a paged one."""
    return plan.optim.startswith("paged_")


def least_training_bytes(plan: MemoryPlan) -> int:
    """Return the peak of training with whatever can page paged out."""
    return max(plan.busy, plan.stepping) if is_paged(plan) else plan.peak


def describe_paging(plan: MemoryPlan, cfg: PlanConfig) -> list[str]:
    """Return the simulated traffic of a paged optimizer on one card; nothing for another one.

    The first step makes the states, so nothing can have been pushed out before it. Traffic in the
    two directions takes turns: a page comes in where one has gone out. The paper gives one
    observation, no slowdown for 65B on 48 GB with batches of 16, and no measurement.
    """
    if not is_paged(plan):
        return []
    least = least_training_bytes(plan)
    small = [card for card in cfg.gpus if least <= usable_bytes(card, cfg) < plan.peak]
    card = cfg.memory or max(small, default=None)
    if card is None:
        return ["simulated paging: on none of these cards is there anything to page"]
    where = f"simulated paging on {card:g} GB at {cfg.bus:g} GB/s"
    try:
        moved = bytes_paged_per_step(
            usable_bytes(card, cfg), states=plan.optimizer, busy=plan.busy, stepping=plan.stepping
        )
    except RunError as error:
        return [f"{where}: {error}"]
    lines = []
    for step in range(1, PAGED_STEPS + 1):
        size = moved if step > 1 else 0
        seconds = 2 * size / (cfg.bus * 1e9)
        traffic = f"{format_gb(size)} GB out, {format_gb(size)} GB in, {seconds:.2f} s"
        lines.append(f"{where}: step {step}: {traffic}")
    return lines


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell of a sweep, with what it would take and what of it is still to be run."""

    label: str
    cfg: PlanConfig
    memory: MemoryPlan
    work: RemainingWork


def build_sweep_table(cells: Sequence[PlannedCell]) -> Table:
    """Return a row a cell: its memory, and what of it is still to be run.

    What all cells share is in the title: a row names what tells it from the others.
    """
    shared, labels = split_shared_labels([cell.label for cell in cells])
    title = "memory predicted, GB, a row a cell" + (f": {shared}" if shared else "")
    timed = any(cell.work.stages and cell.work.seconds is not None for cell in cells)
    differ = len({tuple(cell.work.stages) for cell in cells}) > 1
    numbers = right_aligned("weights", "training", "inference", *["time"] * timed)
    table = Table("cell", *numbers, *["to run"] * differ, title=title)
    table.title_justify = table.caption_justify = "left"
    for label, cell in zip(labels, cells, strict=True):
        memory, stages = cell.memory, cell.work.stages
        sizes = (memory.weights + memory.scales, memory.peak, memory.inference_peak)
        row = [label, *map(format_gb, sizes)]
        row += [_format_time(cell.work)] if timed else []
        row += [", ".join(stages) or "in the store"] if differ else []
        table.add_row(*row)
    table.caption = "\n".join(_summarize_work(cells, differ=differ))
    return table


def _format_time(work: RemainingWork) -> str:
    if not work.stages or work.seconds is None:
        return MISSING
    estimated = "" if work.estimated_seconds is None else "~"
    return estimated + format_duration(work.seconds)


def _summarize_work(cells: Sequence[PlannedCell], *, differ: bool) -> list[str]:
    """Return what is left to run of all cells, how long it takes, and what it costs."""
    remaining = [cell for cell in cells if cell.work.stages]
    stages = "" if differ or not remaining else f" ({', '.join(remaining[0].work.stages)})"
    done = len(cells) - len(remaining)
    lines = [f"{len(remaining)} cells to run{stages}, {done} in the store"]
    timed = [
        (s, cell.cfg.usd_per_hour) for cell in remaining if (s := cell.work.seconds) is not None
    ]
    if timed:
        hours = sum(seconds for seconds, _ in timed) / 3600
        cost = sum(seconds / 3600 * price for seconds, price in timed if price)
        price = "" if None in [price for _, price in timed] else f", {cost:,.0f} USD"
        lines.append(f"{hours:,.1f} GPU-hours in all{price}, {_describe_source(remaining)}")
    if untimed := len(remaining) - len(timed):
        lines.append(f"time unknown for {untimed}: no earlier cell is like them; {TFLOPS_HINT}")
    return lines


def _describe_source(cells: Sequence[PlannedCell]) -> str:
    """Return where the times are from, and what they leave out."""
    estimated = [cell for cell in cells if cell.work.estimated_seconds is not None]
    if not estimated:
        return "by the medians of earlier cells of the model"
    cfg = estimated[0].cfg
    source = f"an estimate (~) at {cfg.tflops:g} TFLOP/s, rows at full length"
    if cfg.memory is None:
        source += ", auto taken for the least memory (plan.memory=80: for a card of 80 GB)"
    if len(cells) > len(estimated):
        source += "; the others by earlier cells"
    return source + format_unestimated(
        sorted({stage for cell in estimated for stage in cell.work.unestimated})
    )


def split_shared_labels(labels: Sequence[str]) -> tuple[str, list[str]]:
    """Return what all labels share behind their models, and each label without it.

    >>> split_shared_labels(["llama_7b, nf4, alpaca, seed 0", "llama_7b, nf4, flan_v2, seed 0"])
    ('nf4, seed 0', ['llama_7b, alpaca', 'llama_7b, flan_v2'])
    """
    parts = [label.split(", ") for label in labels]
    shared = [part for part in parts[0][1:] if all(part in other[1:] for other in parts)]
    rest = [", ".join(part for part in label if part not in shared) for label in parts]
    return ", ".join(shared), rest
