"""The loss of a batch, and the guard that stops a run whose loss is no longer a number."""

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qlora_repro.data.collators import IGNORE, ROW_BEGINS
from qlora_repro.errors import RunError

CHUNK = 1 << 26  # logits that are in float32 at one time


class TargetLoss(TrainerCallback):
    """Mean cross-entropy in nats of the tokens that are trained on, over the whole step.

    `sequences` is how many sequences a step has where their means are averaged, as the authors'
    micro-batches of one do; None: tokens count alike, whichever sequence they are in. It is a
    callback too, to look once a step, after it, whether the loss was finite, and to name the step.
    """

    def __init__(self, *, sequences: int | None = None) -> None:
        self.sequences = sequences
        self.step = 0
        self.total: Tensor | None = None  # of the step so far, on the device

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the step that begins, counted from 1."""
        self.step, self.total = state.global_step + 1, None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop a run whose loss is no number; raises RunError before a checkpoint is written."""
        if self.total is not None and not bool(torch.isfinite(self.total)):
            raise RunError(
                f"the loss is {self.total.item()} at step {self.step}; lower train.lr or "
                "train.max_grad_norm, or use dtype.compute_dtype=bfloat16 in place of float16"
            )

    def __call__(
        self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Return the loss of a micro-batch, as its share of the whole step's mean."""
        if self.sequences is None:
            loss = token_loss(outputs.logits, labels, count=num_items_in_batch)
        else:
            loss = sequence_loss(outputs.logits, labels, sequences=self.sequences)
        seen = loss.detach()
        self.total = seen if self.total is None else self.total + seen
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
    labels = _aligned(logits, labels)
    learned = labels != IGNORE
    if _reads_whole(logits):
        picked = logits[learned]  # (N, V): no softmax over rows that count for nothing
        total = torch.nn.functional.cross_entropy(picked, labels[learned], reduction="sum")
    else:
        total = token_losses(logits, labels).sum()
    return total / (int(learned.sum()) if count is None else count)


def sequence_loss(logits: Tensor, labels: Tensor, *, sequences: int) -> Tensor:
    """Mean cross-entropy of each sequence's labels, summed and divided by `sequences` of a step.

    Shapes are as in `token_loss`. Packed rows lie end to end in one row, (1, K), and each begins
    with the label ROW_BEGINS. A sequence without a label counts as zero.
    """
    if labels.is_floating_point() or labels.dim() == 1:
        return token_loss(logits, labels, count=sequences)
    labels = _aligned(logits, labels)  # (B, K)
    begins = labels == ROW_BEGINS
    losses = token_losses(logits, labels.masked_fill(begins, IGNORE))  # (B, K)
    learned = (labels >= 0).to(losses.dtype)
    if len(labels) > 1:
        sums, counts = losses.sum(1), learned.sum(1)  # (B,)
    else:
        # The label of a pack's first token is not there: nothing comes before to predict it from.
        number = begins.cumsum(1).flatten()  # (K,), of the sequence that a label is in
        most = labels.numel() + 1  # no more sequences than that; how many there are is not asked
        sums, counts = (
            losses.new_zeros(most).index_add(0, number, values.flatten())
            for values in (losses, learned)
        )
    return (sums / counts.clamp_min(1)).sum() / sequences


def _aligned(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the labels that belong to the logits: a causal model's first one has none."""
    if logits.dim() == 3 and labels.shape[1] == logits.shape[1] + 1:
        return labels[:, 1:]  # (B, K)
    return labels


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each label in float32, 0 where it is IGNORE; shaped as labels.

    Logits in 16 bits are brought to float32 in chunks, so that no float32 copy of all of them is
    ever held; those that are in float32 already are read where they are.
    """
    flat, targets = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)  # (N, V), (N,)
    if _reads_whole(logits):
        learned = targets != IGNORE  # no softmax over rows that count for nothing
        picked = torch.nn.functional.cross_entropy(
            flat[learned], targets[learned], reduction="none"
        )
        losses = flat.new_zeros(len(flat)).masked_scatter(learned, picked)
    else:
        losses = ChunkedCrossEntropy.apply(flat, targets)
    return losses.view(labels.shape)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of (N, V) logits, some rows at a time; the gradient is made in chunks too."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the losses (N,) in float32, 0 where a target is IGNORE."""
        losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        norms = torch.empty_like(losses)
        for rows in _chunks(logits):
            values = logits[rows].float()  # (M, V)
            norms[rows] = values.logsumexp(1)
            wanted = targets[rows].clamp_min(0)[:, None]
            losses[rows] = norms[rows] - values.gather(1, wanted).squeeze(1)
            del values  # before the next chunk's are made
        ctx.save_for_backward(logits, targets, norms)
        return losses.masked_fill(targets == IGNORE, 0.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient (N, V) in the dtype of the logits, from that of each loss (N,)."""
        logits, targets, norms = ctx.saved_tensors
        weights = gradients[0].masked_fill(targets == IGNORE, 0.0)  # (N,)
        gradient = torch.empty_like(logits)
        for rows in _chunks(logits):
            values = (logits[rows].float() - norms[rows, None]).exp_()  # (M, V): probabilities
            wanted = targets[rows].clamp_min(0)[:, None]
            values.scatter_add_(1, wanted, values.new_full(wanted.shape, -1.0))
            gradient[rows] = values.mul_(weights[rows, None])
            del values
        return gradient, None


def _reads_whole(logits: Tensor) -> bool:
    """Whether logits need no cast, on a device where picking some of them waits for nothing."""
    return logits.dtype == torch.float32 and logits.device.type == "cpu"


def _chunks(logits: Tensor) -> list[slice]:
    rows = max(1, CHUNK // logits.shape[1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]
