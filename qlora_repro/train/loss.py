"""The training loss, and the check that stops a run whose loss is no longer a number."""

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from qlora_repro.data.collators import IGNORE, ROW_START
from qlora_repro.errors import RunError

LOSS_CHUNK = 1 << 26  # logits that are in float32 at one time


class TargetLoss(TrainerCallback):
    """Mean cross-entropy in nats of the tokens that are trained on, over the whole step.

    A callback too: after each step it checks that the loss was finite.

    Args:
        sequences: Sequences in a step, where their means are averaged as in the authors'
            micro-batches of one. None: all tokens count alike.
    """

    def __init__(self, *, sequences: int | None = None) -> None:
        self.sequences = sequences
        self.step_loss: Tensor | None = None  # of the step so far, on the device

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start a new step."""
        self.step_loss = None

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Stop a run whose loss is no number; raises RunError before a checkpoint is written."""
        if self.step_loss is not None and not bool(torch.isfinite(self.step_loss)):
            raise RunError(
                f"the loss is {self.step_loss.item()} at step {state.global_step}; lower train.lr "
                "or train.max_grad_norm, or use dtype.compute_dtype=bfloat16 in place of float16"
            )

    def __call__(
        self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Return the loss of a micro-batch, as its share of the whole step's mean."""
        if self.sequences is None:
            loss = token_loss(outputs.logits, labels, count=num_items_in_batch)
        else:
            loss = sequence_loss(outputs.logits, labels, sequences=self.sequences)
        detached = loss.detach()
        self.step_loss = detached if self.step_loss is None else self.step_loss + detached
        return loss


def token_loss(logits: Tensor, labels: Tensor, *, count: Tensor | int | None) -> Tensor:
    """Return the cross-entropy summed over labels that are not IGNORE, divided by `count`.

    Args:
        logits: (B, K, V) of a causal model or an encoder-decoder, (B, C) of a classifier, or (B, 1)
            of a regression.
        labels: (B, K+1) for a causal model, where label k + 1 belongs to logit k; (B, K) for an
            encoder-decoder; (B,) otherwise. Labels in floating point are a regression's, whose
            squared error is summed instead.
        count: What the sum is divided by; None: the number of labels.
    """
    if labels.is_floating_point():
        error = logits.squeeze(1).float() - labels  # (B,)
        return error.square().sum() / (len(labels) if count is None else count)
    labels = _align_labels(logits, labels)
    learned = labels != IGNORE
    if _is_float32_on_cpu(logits):
        picked = logits[learned]  # (N, V): no softmax over rows that count for nothing
        total = torch.nn.functional.cross_entropy(picked, labels[learned], reduction="sum")
    else:
        total = losses_per_token(logits, labels).sum()
    return total / (int(learned.sum()) if count is None else count)


def sequence_loss(logits: Tensor, labels: Tensor, *, sequences: int) -> Tensor:
    """Return the sum of each sequence's mean cross-entropy, divided by a step's `sequences`.

    Shapes are those of `token_loss`. Packed sequences follow each other in one row, (1, K), and
    each starts with the label ROW_START. A sequence without a label counts as zero.
    """
    if labels.is_floating_point() or labels.dim() == 1:
        return token_loss(logits, labels, count=sequences)
    labels = _align_labels(logits, labels)  # (B, K)
    starts = labels == ROW_START
    losses = losses_per_token(logits, labels.masked_fill(starts, IGNORE))  # (B, K)
    learned = (labels >= 0).to(losses.dtype)
    if len(labels) > 1:
        sums, counts = losses.sum(1), learned.sum(1)  # (B,)
    else:
        # The label of a pack's first token is not there: nothing comes before to predict it from.
        sequence = starts.cumsum(1).flatten()  # (K,), the number of the one that a label is in
        most = labels.numel() + 1  # sequences; counting them would wait for the GPU
        sums, counts = (
            losses.new_zeros(most).index_add(0, sequence, values.flatten())
            for values in (losses, learned)
        )
    return (sums / counts.clamp_min(1)).sum() / sequences


def _align_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the labels that belong to the logits: a causal model's first one has none."""
    if logits.dim() == 3 and labels.shape[1] == logits.shape[1] + 1:
        return labels[:, 1:]  # (B, K)
    return labels


def losses_per_token(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each label in float32, 0 where it is IGNORE; shaped as labels.

    Logits in 16 bits become float32 in chunks, so that there is never a float32 copy of them all;
    those in float32 on a CPU need no copy.
    """
    flat, targets = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)  # (N, V), (N,)
    if _is_float32_on_cpu(logits):
        learned = targets != IGNORE  # no softmax over rows that count for nothing
        picked = torch.nn.functional.cross_entropy(
            flat[learned], targets[learned], reduction="none"
        )
        losses = flat.new_zeros(len(flat)).masked_scatter(learned, picked)
    else:
        losses = ChunkedCrossEntropy.apply(flat, targets)
    return losses.view(labels.shape)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of (N, V) logits in chunks of rows, in the forward and the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the losses (N,) in float32, 0 where a target is IGNORE."""
        losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        norms = torch.empty_like(losses)
        for rows in _row_chunks(logits):
            values = logits[rows].float()  # (M, V)
            norms[rows] = values.logsumexp(1)
            target = targets[rows].clamp_min(0)[:, None]
            losses[rows] = norms[rows] - values.gather(1, target).squeeze(1)
            del values  # before the next chunk's are made
        ctx.save_for_backward(logits, targets, norms)
        return losses.masked_fill(targets == IGNORE, 0.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient (N, V) in the dtype of the logits, from that of each loss (N,)."""
        logits, targets, norms = ctx.saved_tensors
        weights = gradients[0].masked_fill(targets == IGNORE, 0.0)  # (N,)
        gradient = torch.empty_like(logits)
        for rows in _row_chunks(logits):
            values = (logits[rows].float() - norms[rows, None]).exp_()  # (M, V): probabilities
            target = targets[rows].clamp_min(0)[:, None]
            values.scatter_add_(1, target, values.new_full(target.shape, -1.0))
            gradient[rows] = values.mul_(weights[rows, None])
            del values
        return gradient, None


def _is_float32_on_cpu(logits: Tensor) -> bool:
    """Whether logits need no cast, and picking some of them does not wait for a GPU."""
    return logits.dtype == torch.float32 and logits.device.type == "cpu"


def _row_chunks(logits: Tensor) -> list[slice]:
    rows = max(1, LOSS_CHUNK // logits.shape[1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]
