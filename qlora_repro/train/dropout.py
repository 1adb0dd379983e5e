"""Dropout masks that depend on the seed, the step and the row, and on nothing else.

So the masks of a row are the same in a micro-batch of one or of many, in one process or as a part
of several, before and after a restart: how a batch is cut up is left to the card at hand.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SEEDS = 1 << 63  # that torch's generators take
APART = 0x9E3779B97F4A7C15  # what the seeds of two layers are apart, so that no two rows meet


class _Masked(torch.autograd.Function):
    """x * mask / (1 - p), which keeps the mask alone: a byte a value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        """Return the values that are left, scaled; x and mask (B, T, n)."""
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return (x * mask).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x."""
        (mask,) = ctx.saved_tensors
        return (gradients[0] * mask).mul_(ctx.scale), None, None


class RowDropout(nn.Module):
    """Dropout of a LoRA layer's input (B, T, n) whose mask is drawn row by row."""

    def __init__(self, p: float, *, number: int, length: int) -> None:
        super().__init__()
        self.p = p
        self.number = number  # of the layer
        self.length = length  # tokens of the longest row: a mask is drawn for so many, then cut
        self.seeds: Sequence[int] = ()  # of the rows in the micro-batch

    def forward(self, x: Tensor) -> Tensor:
        """Return the input, in training with a share p of its values dropped.

        An input whose rows are not those of the micro-batch is treated as torch would.
        """
        if not self.training or not self.p:
            return x
        if x.dim() != 3 or len(x) != len(self.seeds):
            return nn.functional.dropout(x, self.p)
        batch, tokens, width = x.shape
        generator = torch.Generator(x.device)
        mask = torch.empty(batch, tokens, width, dtype=torch.bool, device=x.device)
        drawn = mask.new_empty(max(tokens, self.length), width)
        for row, seed in enumerate(self.seeds):
            generator.manual_seed((seed + self.number * APART) % SEEDS)
            mask[row] = drawn.bernoulli_(1 - self.p, generator=generator)[:tokens]
        return _Masked.apply(x, mask, 1 / (1 - self.p))  # type: ignore[no-any-return]


def draw_by_row(model: nn.Module, *, length: int) -> list[RowDropout]:
    """Replace the dropout of a model's LoRA layers by one that draws by row; return those.

    `length` is the number of tokens of the longest row there is.
    """
    placed: list[RowDropout] = []
    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        for name, dropout in layer.lora_dropout.items():
            if isinstance(dropout, nn.Dropout | RowDropout):
                row = RowDropout(dropout.p, number=len(placed), length=length)
                layer.lora_dropout[name] = row.train(dropout.training)
                placed.append(row)
    return placed


class DropoutDraw(TrainerCallback):
    """Tells dropout which rows a micro-batch holds, and starts torch's generators anew for it.

    `per_step` micro-batches of `rows` rows make a batch. What draws from torch's own generators, as
    a model's own dropout does, draws the same for a micro-batch whichever process computes it.
    """

    def __init__(
        self, seed: int, per_step: int, *, rows: int = 1, dropouts: Sequence[RowDropout] = ()
    ) -> None:
        self.seed = seed
        self.per_step = per_step
        self.rows = rows
        self.dropouts = dropouts
        self.done = 0  # micro-batches of this step, by this process

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw for the step's first micro-batch of this process."""
        self.done = 0
        self._draw(args, state)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw for its next one: processes take turns."""
        self.done += 1
        self._draw(args, state)

    def _draw(self, args: TrainingArguments, state: TrainerState) -> None:
        place = self.done * args.world_size + args.process_index
        number = state.global_step * self.per_step + place
        torch.manual_seed(self._seed_of(number))
        first = number * self.rows
        seeds = [self._seed_of("row", row) for row in range(first, first + self.rows)]
        for dropout in self.dropouts:
            dropout.seeds = seeds

    def _seed_of(self, *names: object) -> int:
        digest = hashlib.sha256(" ".join(map(str, (self.seed, *names))).encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)
