"""Rows in a forward pass and gradient checkpointing, where a run leaves them to the planner.

The batch of an optimizer step, and so its loss, is the same whatever is chosen here.
"""

from dataclasses import dataclass, replace

from qlora_repro.config.schema import RunConfig, TrainConfig
from qlora_repro.memory.breakdown import training
from qlora_repro.memory.settings import architecture, card_bytes, setting

MARGIN = 0.9  # of a card's memory, as predictions are to be within a tenth of what is measured
# A pass through a block takes as long, whatever its tokens, as this many products of a weight and a
# token: 4.7 ms at 600 TFLOP/s, as an H100 was measured to. It decides nothing but what is chosen.
LAUNCH = 4.7e-3 * 600e12 / 2


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward pass has."""

    rows: int
    checkpointing: bool

    def describe(self) -> str:
        """Return it in words.

        >>> MicroBatch(rows=4, checkpointing=False).describe()
        'micro-batch 4 without gradient checkpointing'
        """
        return f"micro-batch {self.rows} with{'' if self.checkpointing else 'out'} " + (
            "gradient checkpointing"
        )


def choose_micro_batch(
    cfg: RunConfig, memory: int | None, *, length: int | None = None, processes: int = 1
) -> MicroBatch:
    """Return the fastest of what fits `memory` bytes; what the configuration states stays.

    `length` is that of the longest row, where it is known. Where nothing fits, and where `memory`
    is None, as on a CPU and for a base that is divided over cards, it is what takes least: one row,
    with checkpointing. The optimizer's states are to fit too: a paged run is what is left when
    nothing else is.
    """
    train = cfg.train
    rows = [n for n in range(1, train.batch_size + 1) if train.batch_size // processes % n == 0]
    asked = [
        MicroBatch(rows=n, checkpointing=way)
        for n in (rows if train.micro_batch_size == "auto" else [train.rows])
        for way in (
            (True, False) if train.gradient_checkpointing == "auto" else [train.checkpoints]
        )
    ]
    if memory is None or len(asked) == 1:
        return asked[0]
    sizes, adapted = architecture(cfg.model, cfg.lora.target, layers=cfg.lora.layers)
    settings = {one: setting(settle_micro_batch(cfg, one), length=length) for one in asked}
    tokens, block = settings[asked[0]].length, sizes.quantizable / max(1, len(sizes.blocks))
    fastest_first = sorted(asked, key=lambda one: relative_time(cfg, one, tokens, block=block))
    for one in fastest_first:
        if training(sizes, settings[one], adapted).peak <= MARGIN * memory:
            return one
    return asked[0]


def relative_time(cfg: RunConfig, micro: MicroBatch, length: int, *, block: float) -> float:
    """Return what a row of `length` tokens takes, in the time of a forward pass over a token.

    `block` is how many weights a transformer block has: a small one waits for its kernels. A
    backward pass computes the gradients of activations, and of weights where all of them train;
    with checkpointing the forward pass is computed again.
    """
    passes = (3 if cfg.full_finetuning else 2) + micro.checkpointing
    return passes * (length + LAUNCH / block / micro.rows)


def settle_micro_batch_of_plan(cfg: RunConfig) -> RunConfig:
    """Return the configuration with what is chosen for plan.memory, or for no card: the least."""
    memory = None if cfg.plan.memory is None else card_bytes(cfg.plan.memory, cfg.plan)
    return settle_micro_batch(cfg, choose_micro_batch(cfg, memory))


def leaves_open(train: TrainConfig) -> bool:
    """Whether the planner is to choose."""
    return "auto" in (train.micro_batch_size, train.gradient_checkpointing)


def settle_micro_batch(cfg: RunConfig, micro: MicroBatch) -> RunConfig:
    """Return the configuration with what was chosen, which runs; what names it keeps its `auto`."""
    way = micro.checkpointing
    train = replace(cfg.train, micro_batch_size=micro.rows, gradient_checkpointing=way)
    return replace(cfg, train=train)
