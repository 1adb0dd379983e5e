"""A text cut into windows, and what one model, or two, make of each token in them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Some consecutive tokens of a text."""

    ids: Sequence[int]
    new: int  # of the last so many the loss counts; the others are context


@dataclass(frozen=True)
class Compared:
    """One token's next-token distribution against the reference model's."""

    kl: float  # nats: how much the reference's samples cost more to code, never below zero
    same_top: float  # 1.0 when both find the same token the likeliest, else 0.0


def cut(ids: Sequence[int], *, window: int, stride: int) -> list[Window]:
    """Cut a text into windows in which every token is new once; the first token of all never is.

    A token without context has no loss, so that with `stride == window` the first of each window is
    not scored. A last window of one such token is left out.

    >>> [(list(w.ids), w.new) for w in cut(range(6), window=4, stride=2)]
    [([0, 1, 2, 3], 3), ([2, 3, 4, 5], 2)]
    >>> [(list(w.ids), w.new) for w in cut(range(7), window=4, stride=4)]
    [([0, 1, 2, 3], 3), ([4, 5, 6], 2)]
    """
    windows = []
    done = 0  # tokens that an earlier window held
    for start in range(0, len(ids), stride):
        tokens = ids[start : start + window]
        new = min(start + len(tokens) - done, len(tokens) - 1)
        if new > 0:
            windows.append(Window(tokens, new))
        done = start + len(tokens)
        if done == len(ids):
            break
    return windows


def window_losses(model: Any, windows: Sequence[Window]) -> list[float]:
    """Return the losses of the new tokens of a batch of windows, one window after the other."""
    losses: list[float] = []
    for logits, targets in _new_tokens(_logits(model, windows), windows):
        losses += torch.nn.functional.cross_entropy(logits, targets, reduction="none").tolist()
    return losses


def compare(
    model: Any, reference: Any, windows: Sequence[Window]
) -> tuple[list[float], list[Compared]]:
    """Return the model's losses on the new tokens, and its distributions against the reference's.

    The divergence is D(reference || model) over the whole vocabulary, in float32; what rounding
    leaves below zero is zero.
    """
    losses: list[float] = []
    compared: list[Compared] = []
    mine = _new_tokens(_logits(model, windows), windows)
    theirs = _new_tokens(_logits(reference, windows), windows)
    for (logits, targets), (expected, _) in zip(mine, theirs, strict=True):
        q = logits.log_softmax(dim=-1)  # (M, V)
        p = expected.to(q.device).log_softmax(dim=-1)  # (M, V)
        kl = (p.exp() * (p - q)).sum(dim=-1).clamp_min(0)  # (M,)
        same = (p.argmax(dim=-1) == q.argmax(dim=-1)).float()  # (M,)
        losses += (-q.gather(1, targets[:, None])).squeeze(1).tolist()
        compared += [Compared(*pair) for pair in zip(kl.tolist(), same.tolist(), strict=True)]
    return losses, compared


def _logits(model: Any, windows: Sequence[Window]) -> Tensor:
    """Return (B, T, V): B windows, filled up to the T tokens of the longest."""
    longest = max(len(window.ids) for window in windows)
    ids = torch.zeros(len(windows), longest, dtype=torch.long, device=model.device)
    mask = torch.zeros_like(ids)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = torch.tensor(window.ids)  # padding comes last
        mask[row, : len(window.ids)] = 1
    logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits


def _new_tokens(logits: Tensor, windows: Sequence[Window]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (logits (M, V) in float32, targets (M,)) of each window's M new tokens."""
    for row, window in enumerate(windows):
        end = len(window.ids)
        targets = torch.tensor(window.ids[end - window.new :], device=logits.device)
        yield logits[row, end - window.new - 1 : end - 1].float(), targets
