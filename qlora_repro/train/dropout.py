"""Dropout masks that depend on the seed, the step and the micro-batch, and on nothing else."""

import hashlib
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class DropoutDraw(TrainerCallback):
    """Start torch's generators anew before each micro-batch.

    So a micro-batch draws the same masks whichever process computes it, as one of many or as a part
    of an accumulated batch, and after a restart too. `per_step` micro-batches make a batch.
    """

    def __init__(self, seed: int, per_step: int) -> None:
        self.seed = seed
        self.per_step = per_step
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
        digest = hashlib.sha256(f"{self.seed} {number}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
