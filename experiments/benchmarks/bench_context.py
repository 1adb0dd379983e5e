"""The longest context that a card holds: what planning predicts beside what others published.

    python -m experiments.benchmarks.bench_context

Published by Unsloth in December 2024 (unsloth.ai/blog/llama3-3) for Hugging Face with flash
attention: QLoRA of Llama 3.1 8B, and of Llama 3.3 70B, on all linear layers, r = 32, one row padded
to its full length. Nothing is loaded here. What is not published is assumed to be the usual recipe:
PEFT's `prepare_model_for_kbit_training`, which holds embeddings, output layer and norms in float32;
adapters in float32 with PEFT's own layers, as PEFT makes them; NF4 with double quantization; AdamW
with 8 bytes of states a weight; gradient checkpointing; accumulated gradients; transformers' own
loss over all positions.

The published lengths lie on a straight line to a token (404.7 tokens more for each GB), so they are
two numbers, a slope and an intercept, and not eight measurements. Which figure of memory they read
is not said; a card is taken to have as many GiB as its name says. Two columns: `allocated` is what
planning counts, the tensors alone; `reserved` adds the one block that a caching allocator is known
to hold beside them, that of the 16-bit logits, which is free at the fullest moment and too small
for the float32 values that are asked for next.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from experiments.bench_training import configuration
from qlora_repro.console import say
from qlora_repro.memory.breakdown import loss_memory, training_memory
from qlora_repro.memory.settings import PlannedRun, plan_run

WITHIN = 0.15  # of the published length
PUBLISHED: dict[str, dict[int, int]] = {  # GB of the card -> tokens
    "llama3_1_8b": {12: 932, 16: 2551, 24: 5789, 40: 12264, 48: 15502, 80: 28454},
    "llama3_3_70b": {48: 0, 80: 6916},  # 0: out of memory
}
RECIPE = (
    *("stages=[plan]", "dtype=nf4", "dq=true", "lora=all", "lora.r=32", "lora.dropout=0"),
    *("lora.dtype=float32", "lora.fused=false", "train.optim=paged_adamw_32bit"),
    *("train.batch_size=4", "train.micro_batch_size=1", "train.gradient_checkpointing=true"),
    "data.train_on_source=true",  # so every position has its logits
)
MODELS = {
    "llama3_1_8b": ("model=llama3_1_8b",),
    "llama3_3_70b": (
        *("model=llama3_1_8b", "model.architecture.hidden_size=8192"),
        *("model.architecture.intermediate_size=28672", "model.architecture.num_hidden_layers=80"),
        "model.architecture.num_attention_heads=64",
    ),
}
LONGEST = 1 << 20  # tokens


@dataclass(frozen=True, kw_only=True)
class Case:
    """A published length beside the predicted ones, tokens."""

    model: str
    card: int  # GB
    published: int
    allocated: int
    reserved: int

    def ratio(self, predicted: int) -> float | None:
        """Return predicted over published; None where nothing fitted."""
        return predicted / self.published if self.published else None


def longest(fits: Callable[[int], bool]) -> int:
    """Return the largest length that fits, 0 where none does.

    >>> longest(lambda length: length <= 932)
    932
    """
    low, high = 0, LONGEST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


@cache
def recipe(model: str) -> tuple[PlannedRun, float]:
    """Return a run by the usual recipe; and GB that no tensor gets."""
    cfg = configuration((*MODELS[model], *RECIPE))
    return replace(plan_run(cfg), base_bytes=4, library_loss=True), cfg.plan.reserve


def predict_longest(model: str, card: int, *, reserved: bool) -> int:
    """Return the longest row, in tokens, that a card of so many GB trains on; 0: none."""
    run, reserve = recipe(model)
    room = card * 2**30 - reserve * 1e9

    def fits(length: int) -> bool:
        row = replace(run, length=length, loss_positions=length)
        held = loss_memory(row).logits if reserved else 0
        return training_memory(row).peak + held <= room

    return longest(fits)


def cases() -> list[Case]:
    """Return every published length beside what planning predicts."""
    return [
        Case(
            model=model,
            card=card,
            published=published,
            allocated=predict_longest(model, card, reserved=False),
            reserved=predict_longest(model, card, reserved=True),
        )
        for model, lengths in PUBLISHED.items()
        for card, published in lengths.items()
    ]


def show_cases(contexts: list[Case]) -> None:
    """Print a row a card."""
    from rich.table import Table

    table = Table(title="longest context, tokens", title_justify="left")
    for heading in ("model", "card", "published", "allocated", "ratio", "reserved", "ratio"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for case in contexts:
        cells = []
        for predicted in (case.allocated, case.reserved):
            ratio = case.ratio(predicted)
            cells += [f"{predicted:,}", "-" if ratio is None else f"{ratio:.2f}"]
        table.add_row(case.model, f"{case.card} GB", f"{case.published:,}", *cells)
    say(table)


def main() -> None:
    """Print the table, and how many lengths are within the tolerance."""
    contexts = cases()
    show_cases(contexts)
    for name in ("allocated", "reserved"):
        ratios = [case.ratio(getattr(case, name)) for case in contexts]
        near = sum(ratio is not None and abs(ratio - 1) <= WITHIN for ratio in ratios)
        say(f"{name}: {near} of {sum(r is not None for r in ratios)} within {WITHIN:.0%}")


if __name__ == "__main__":
    main()
