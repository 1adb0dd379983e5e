"""The loss of a batch, and the guard that stops a run whose loss is no longer a number."""

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qlora_repro.errors import RunError

IGNORE = -100


class TargetLoss(TrainerCallback):
    """Mean cross-entropy in nats over the tokens that are trained on, over the whole step.

    It is a callback too, to know the step that it names when the loss is not finite.
    """

    def __init__(self) -> None:
        self.step = 0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the step that begins, counted from 1."""
        self.step = state.global_step + 1

    def __call__(
        self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Return the loss of a micro-batch, as its share of the whole step's mean."""
        loss = token_loss(outputs.logits, labels, count=num_items_in_batch)
        if not bool(torch.isfinite(loss)):
            raise RunError(
                f"the loss is {loss.item()} at step {self.step}; lower train.lr or "
                "train.max_grad_norm, or use dtype.compute_dtype=bfloat16 in place of float16"
            )
        return loss


def token_loss(logits: Tensor, labels: Tensor, *, count: Tensor | int | None) -> Tensor:
    """Cross-entropy summed over labels that are not IGNORE, over `count` (None: their number).

    logits (B, K, V) with labels (B, K+1) for a causal model, label k + 1 belonging to logit k, or
    labels (B, K) for an encoder-decoder; logits (B, C) with labels (B,) for a classifier. Labels
    that are no whole numbers are a regression's, logits (B, 1): their squared error.
    """
    if labels.is_floating_point():
        error = logits.squeeze(1).float() - labels  # (B,)
        return error.square().sum() / (len(labels) if count is None else count)
    if logits.dim() == 3 and labels.shape[1] == logits.shape[1] + 1:
        labels = labels[:, 1:]  # (B, K)
    learned = labels != IGNORE
    picked = logits[learned].float()  # (N, V): no softmax over rows that count for nothing
    total = torch.nn.functional.cross_entropy(picked, labels[learned], reduction="sum")
    return total / (int(learned.sum()) if count is None else count)
