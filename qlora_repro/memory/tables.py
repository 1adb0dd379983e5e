"""A plan as the user sees it: a table of parts, a line a GPU, the simulated paging."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from qlora_repro.config.schema import PlanConfig
from qlora_repro.errors import RunError
from qlora_repro.memory.breakdown import PAPER_FULL
from qlora_repro.memory.micro_batch import MicroBatch
from qlora_repro.memory.paging import Demand, simulate
from qlora_repro.memory.remaining_work import ASK, Todo, spell_left_out, spell_time
from qlora_repro.memory.settings import card_bytes
from qlora_repro.records import MemoryPlan

SHOWN = 3  # simulated steps
NONE = "-"


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A planned cell of a sweep."""

    label: str
    plan: PlanConfig


def gb(size: int | None) -> str:
    """Return bytes in GB of 1e9, as every size here; a dash for what there is not.

    >>> gb(47_949_715_648), gb(0)
    ('47.95', '0.00')
    """
    return NONE if size is None else f"{size / 1e9:.2f}"


def describe(found: MemoryPlan) -> str:
    """Return a run in words."""
    dtype = found.dtype + (" + dq" if found.dq else "") + (" (simulated)" * found.simulated)
    lora = "full fine-tuning" if found.r is None else f"lora {found.lora} r={found.r}"
    model = f"stand-in {found.model}" if found.stand_in else found.model
    return f"{model}, {dtype}, {lora}, {found.rows} x {found.length} tokens, {found.optim}"


def table(found: MemoryPlan) -> Table:
    """Return the parts of training and of inference, GB."""
    how = "with" if found.checkpointing else "without"
    made = Table()
    made.add_column("GB")
    made.add_column("training", justify="right")
    made.add_column("inference", justify="right")
    weights = found.weights, found.scales, found.adapter_weights
    inferred = found.inference_activations, found.inference_logits, found.inference_peak
    parts: list[tuple[str, int | None, int | None]] = [
        ("weights", weights[0], weights[0]),
        ("quantization scales", weights[1], weights[1]),
        ("adapters", weights[2], weights[2]),
        ("gradients", found.gradients, None),
        ("optimizer states", found.optimizer, None),
        ("16-bit copies of what trains", found.copies, None),
        ("activations with gradient checkpointing", found.activations_checkpointed, None),
        ("activations without", found.activations_unchecked, inferred[0]),
        ("keys and values", None, found.cache),
        ("logits and loss", found.logits, inferred[1]),
    ]
    for name, train, answer in parts:
        made.add_row(name, gb(train), gb(answer))
    made.add_section()
    made.add_row(f"peak ({how} checkpointing)", gb(found.peak), gb(inferred[2]))
    return made


def lines(
    found: MemoryPlan, plan: PlanConfig, *, chosen: Mapping[int, MicroBatch] | None = None
) -> list[str]:
    """Return what the table does not say: counts, the moment of the peak, cards, paging.

    `chosen` is the micro-batch of each card where the run leaves it to the planner.
    """
    bits = "" if found.bits is None else f", {found.bits:.3f} bits a quantized parameter"
    said = [
        f"{found.params / 1e9:.3f} B parameters{bits}; {found.trained / 1e6:.1f} M train",
        f"the peak of training comes at {found.when}; parts that take turns do not add up to it",
    ]
    if found.r is None:
        said.append(
            f"16-bit full fine-tuning as the paper counts it, {PAPER_FULL} bytes a parameter: "
            f"{gb(PAPER_FULL * found.params)} GB; here what trains is held in float32"
        )
    said += [card_line(found, card, plan, micro=(chosen or {}).get(card)) for card in plan.gpus]
    return said + spread_lines(found, plan) + paging_lines(found, plan)


def card_line(
    found: MemoryPlan, card: int, plan: PlanConfig, *, micro: MicroBatch | None = None
) -> str:
    """Return which of training and inference a card holds, and by what micro-batch it trains."""
    room = card_bytes(card, plan)
    trains = "holds it" if found.peak <= room else "does not hold it"
    if found.peak > room and pages(found) and max(found.busy, found.stepping) <= room:
        trains = "holds it with optimizer states paged out"
    if micro is not None and trains != "does not hold it":
        trains += f" ({micro.describe()})"
    answers = "holds it" if found.inference_peak <= room else "does not hold it"
    return f"{card} GB card ({gb(room)} GB for tensors): training {trains}, inference {answers}"


def spread_lines(found: MemoryPlan, plan: PlanConfig) -> list[str]:
    """Return how many of the largest cards hold what one of them does not, in equal shares."""
    card = max(plan.gpus, default=None)
    room = card_bytes(card, plan) if card else 0
    training = max(found.busy, found.stepping) if pages(found) else found.peak
    needs = {"training": training, "inference": found.inference_peak}
    several = {what: -(-size // room) for what, size in needs.items() if 0 < room < size}
    if not several:
        return []
    counts = ", ".join(f"at least {count} for {what}" for what, count in several.items())
    return [f"spread over {card} GB cards of one machine, model.device=spread: {counts}"]


def pages(found: MemoryPlan) -> bool:
    """Whether the optimizer is a paged one."""
    return found.optim.startswith("paged_")


def paging_lines(found: MemoryPlan, plan: PlanConfig) -> list[str]:
    """Return the simulated traffic of a paged optimizer on one card; nothing for another one."""
    if not pages(found):
        return []
    needed = max(found.busy, found.stepping)
    small = [card for card in plan.gpus if needed <= card_bytes(card, plan) < found.peak]
    card = plan.memory or max(small, default=None)
    if card is None:
        return ["simulated paging: on none of these cards is there anything to page"]
    demand = Demand(state=found.optimizer, busy=found.busy, stepping=found.stepping)
    where = f"simulated paging on {card:g} GB at {plan.bus:g} GB/s"
    try:
        steps = simulate(demand, card_bytes(card, plan), bus=plan.bus, steps=SHOWN)
    except RunError as error:
        return [f"{where}: {error}"]
    return [
        f"{where}: step {s.step}: {gb(s.paged_out)} GB out, {gb(s.paged_in)} GB in, "
        f"{s.seconds:.2f} s"
        for s in steps
    ]


def sweep_table(
    plans: Sequence[MemoryPlan], todos: Sequence[Todo], cells: Sequence[PlannedCell]
) -> Table:
    """Return a row a cell: its memory, and what of it is still to be run.

    What all cells share stands in the title: a row names what tells it from the others.
    """
    shared, labels = split_labels([cell.label for cell in cells])
    title = "memory predicted, GB, a row a cell" + (f": {shared}" if shared else "")
    made = Table(title=title, title_justify="left", caption_justify="left")
    made.add_column("cell")
    timed = any(left.stages and left.best is not None for left in todos)
    for name in ("weights", "training", "inference", *(["time"] if timed else [])):
        made.add_column(name, justify="right")
    differ = len({tuple(left.stages) for left in todos}) > 1
    if differ:
        made.add_column("to run")
    for label, found, left in zip(labels, plans, todos, strict=True):
        sizes = map(gb, (found.weights + found.scales, found.peak, found.inference_peak))
        time = [_time(left)] if timed else []
        to_run = [", ".join(left.stages) or "in the store"] if differ else []
        made.add_row(label, *sizes, *time, *to_run)
    made.caption = "\n".join(_totals(todos, cells, differ=differ))
    return made


def _time(left: Todo) -> str:
    if not left.stages or left.best is None:
        return NONE
    return ("" if left.estimate is None else "~") + spell_time(left.best)


def _totals(todos: Sequence[Todo], cells: Sequence[PlannedCell], *, differ: bool) -> list[str]:
    """Return what is left to run of all cells, how long it takes, and what it costs."""
    run = [(left, cell.plan) for left, cell in zip(todos, cells, strict=True) if left.stages]
    stages = "" if differ or not run else f" ({', '.join(run[0][0].stages)})"
    said = [f"{len(run)} cells to run{stages}, {len(todos) - len(run)} in the store"]
    known = [(left.best, plan) for left, plan in run if left.best is not None]
    if known:
        total = sum(seconds for seconds, _ in known)
        prices = [plan.usd_per_hour for _, plan in known]
        cost = sum(s / 3600 * plan.usd_per_hour for s, plan in known if plan.usd_per_hour)
        price = "" if None in prices else f", {cost:,.0f} USD"
        said.append(f"{total / 3600:,.1f} GPU-hours in all{price}, {_source(run)}")
    if unknown := len(run) - len(known):
        said.append(f"time unknown for {unknown}: no earlier cell is like them; {ASK}")
    return said


def _source(run: Sequence[tuple[Todo, PlanConfig]]) -> str:
    """Return where the times are from, and what they leave out."""
    estimated = [(left, plan) for left, plan in run if left.estimate is not None]
    if not estimated:
        return "by the medians of earlier cells of the model"
    plan = estimated[0][1]
    missing = sorted({stage for one, _ in estimated for stage in one.left_out})
    measured = len(run) - len(estimated)
    by = f"an estimate (~) at {plan.tflops:g} TFLOP/s, rows at full length"
    if plan.memory is None:
        by += ", auto taken for the least memory (plan.memory=80: for a card of 80 GB)"
    if measured:
        by += "; the others by earlier cells"
    return by + spell_left_out(missing)


def split_labels(labels: Sequence[str]) -> tuple[str, list[str]]:
    """Return what all labels share behind their models, and each label without it.

    >>> split_labels(["llama_7b, nf4, alpaca, seed 0", "llama_7b, nf4, flan_v2, seed 0"])
    ('nf4, seed 0', ['llama_7b, alpaca', 'llama_7b, flan_v2'])
    """
    parts = [label.split(", ") for label in labels]
    shared = [part for part in parts[0][1:] if all(part in other[1:] for other in parts)]
    rest = [", ".join(part for part in label if part not in shared) for label in parts]
    return ", ".join(shared), rest
