"""LoRA dropout whose masks depend on the seed, the step and the row, and on nothing else.

The masks of a row are the same in a micro-batch of one or of many, in one process or in several,
before and after a restart: how a batch is divided is left to the hardware at hand.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

SEED_RANGE = 1 << 63  # of torch's generators
LAYER_STRIDE = 0x9E3779B97F4A7C15  # between the seeds of two layers, so that no two rows share one


class _MaskedScale(torch.autograd.Function):
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
    """Dropout of a LoRA layer's input whose mask is drawn row by row.

    Args:
        p: The share of values that are dropped.
        layer: The number of the layer, which sets its masks apart from those of others.
        length: Tokens of the longest row: a mask is drawn for so many, then cut.
    """

    def __init__(self, p: float, *, layer: int, length: int) -> None:
        super().__init__()
        self.p = p
        self.layer = layer
        self.length = length
        self.seeds: Sequence[int] = ()  # of the rows in the micro-batch
        self.lengths: Sequence[int] = ()  # tokens of those rows

    def forward(self, x: Tensor) -> Tensor:
        """Return the input (B, T, n), in training with a share p of its values dropped.

        The rows may also lie end to end, (1, S, n). An input whose rows are not those of the
        micro-batch is treated as torch would.
        """
        if not self.training or not self.p:
            return x
        mask = torch.empty(x.shape, dtype=torch.bool, device=x.device)
        rows = self._split_rows(mask)  # each (T, n)
        if not rows:
            return nn.functional.dropout(x, self.p)
        generator = torch.Generator(x.device)
        drawn = mask.new_empty(max(x.shape[1], self.length), x.shape[2])
        for row, seed in zip(rows, self.seeds, strict=True):
            generator.manual_seed((seed + self.layer * LAYER_STRIDE) % SEED_RANGE)
            row.copy_(drawn.bernoulli_(1 - self.p, generator=generator)[: len(row)])
        return _MaskedScale.apply(x, mask, 1 / (1 - self.p))  # type: ignore[no-any-return]

    def _split_rows(self, mask: Tensor) -> Sequence[Tensor]:
        """Return the mask's part of each row of the micro-batch; none where they are unknown."""
        if mask.dim() == 3 and len(mask) == len(self.seeds):
            return list(mask)
        if mask.dim() == 3 and len(mask) == 1 and mask.shape[1] == sum(self.lengths):
            return list(torch.split(mask[0], list(self.lengths)))
        return ()


def install_row_dropout(model: nn.Module, *, length: int) -> list[RowDropout]:
    """Replace the dropout of a model's LoRA layers by RowDropout; return the new modules.

    `length` is the number of tokens of the longest row there is.
    """
    installed: list[RowDropout] = []
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        for name, dropout in module.lora_dropout.items():
            if isinstance(dropout, nn.Dropout | RowDropout):
                new = RowDropout(dropout.p, layer=len(installed), length=length)
                module.lora_dropout[name] = new.train(dropout.training)
                installed.append(new)
    return installed


class DropoutSeeding(TrainerCallback):
    """Seed dropout for each micro-batch, whichever process computes it.

    RowDropout gets the seeds of the rows at hand. torch's own generators, from which a model's own
    dropout draws, start anew for each micro-batch.

    Args:
        seed: The run's.
        per_step: Micro-batches in a batch, of all processes.
        rows: Rows in a micro-batch.
        lengths: Tokens of all rows of the run, in their order; of use where they are packed.
        dropouts: The modules to seed.
    """

    def __init__(
        self,
        seed: int,
        per_step: int,
        *,
        rows: int = 1,
        lengths: Sequence[int] = (),
        dropouts: Sequence[RowDropout] = (),
    ) -> None:
        self.seed = seed
        self.per_step = per_step
        self.rows = rows
        self.lengths = lengths
        self.dropouts = dropouts
        self.substep = 0  # micro-batches of this step that this process has done

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any
    ) -> None:
        """Seed for the step's first micro-batch of this process."""
        self.substep = 0
        self._seed_micro_batch(args, state)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any
    ) -> None:
        """Seed for its next one: processes take turns."""
        self.substep += 1
        self._seed_micro_batch(args, state)

    def _seed_micro_batch(self, args: TrainingArguments, state: TrainerState) -> None:
        in_step = self.substep * args.world_size + args.process_index
        number = state.global_step * self.per_step + in_step
        torch.manual_seed(self._derive_seed(number))
        first = number * self.rows
        seeds = [self._derive_seed("row", row) for row in range(first, first + self.rows)]
        for dropout in self.dropouts:
            dropout.seeds, dropout.lengths = seeds, self.lengths[first : first + self.rows]

    def _derive_seed(self, *names: object) -> int:
        digest = hashlib.sha256(" ".join(map(str, (self.seed, *names))).encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)
