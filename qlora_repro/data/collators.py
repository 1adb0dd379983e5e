"""The order of the training rows, and collators: from encoded rows to the tensors of a batch.

B = sequences in the micro-batch, T = their longest, K = positions that need logits, R and S = rows
and tokens of a pack.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from qlora_repro.data.tokenization import EncodedExample

SORTED_BATCHES = 50  # as in the group_by_length of transformers: batches sorted within 50 batches


def order_rows(
    lengths: Sequence[int], *, batch_size: int, steps: int, seed: int, group_by_length: bool
) -> list[int]:
    """Return the row numbers of all `steps` batches, end to end: steps * batch_size of them.

    It is a list and not a sampler, so that it depends on the seed alone: a run that was killed
    resumes at the same row, whatever random numbers were drawn in between.

    Each epoch visits every row once, in a new order. With `group_by_length` rows of like length
    share a batch (Appendix B.2): the batches themselves come in random order, so the loss curve
    oscillates, and no batch spends itself on padding.
    """
    count = steps * batch_size
    rng = random.Random(seed)
    numbers: list[int] = []
    while len(numbers) < count:
        epoch = rng.sample(range(len(lengths)), len(lengths))
        numbers += _group_by_length(epoch, lengths, batch_size, rng) if group_by_length else epoch
    return numbers[:count]


def _group_by_length(
    epoch: Sequence[int], lengths: Sequence[int], batch_size: int, rng: random.Random
) -> list[int]:
    chunk = SORTED_BATCHES * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(epoch), chunk):
        ranked = sorted(epoch[start : start + chunk], key=lambda i: lengths[i], reverse=True)
        batches += [ranked[i : i + batch_size] for i in range(0, len(ranked), batch_size)]
    ragged = batches.pop() if len(batches[-1]) < batch_size else []
    rng.shuffle(batches)
    return [i for batch in [*batches, ragged] for i in batch]


Batch = dict[str, Any]  # tensors, and the length of the longest row of a pack
Collator = Callable[[Sequence[EncodedExample]], Batch]
IGNORE = -100
ROW_START = -101  # label of a packed row's first token, where the means of rows are wanted


def _pad(sequences: Sequence[Sequence[float]], value: int) -> Tensor:
    """Right-pad to a tensor (B, T)."""
    longest = max(map(len, sequences))
    return torch.tensor([[*s, *[value] * (longest - len(s))] for s in sequences])  # (B, T)


def _mask(sequences: Sequence[Sequence[float]]) -> Tensor:
    """Return 1 for a token, 0 for padding; by length: padding may be the end-of-sequence token."""
    return _pad([[1] * len(s) for s in sequences], 0)  # (B, T)


def _select_logits(labels: Tensor, *, trims_logits: bool) -> Batch:
    """Return the labels (B, K+1), and as `logits_to_keep` (K,) the positions they need.

    Position p predicts token p + 1, so the labels get a first column of IGNORE: label k + 1 then
    belongs to logit k, the usual form. Without trimming K = T.
    """
    ignored = torch.full((labels.shape[0], 1), IGNORE)  # (B, 1)
    shifted = torch.cat([labels[:, 1:], ignored], dim=1)  # (B, T)
    if not trims_logits:
        return {"labels": torch.cat([ignored, shifted], dim=1)}  # (B, T+1)
    positions = (shifted != IGNORE).any(dim=0).nonzero().squeeze(1)  # (K,)
    labels = torch.cat([ignored, shifted[:, positions]], dim=1)  # (B, K+1)
    return {"labels": labels, "logits_to_keep": positions}


def causal_collator(pad_id: int, *, trims_logits: bool) -> Collator:
    """Return a collator for a causal model; `trims_logits`: its forward takes `logits_to_keep`.

    With the loss on the target only, most positions need no logits over the vocabulary: on short
    answers the output layer is a fifth of a small model's work.
    """

    def collate(rows: Sequence[EncodedExample]) -> Batch:
        ids = [row.ids for row in rows]
        labels = _pad([row.labels for row in rows], IGNORE)  # (B, T)
        batch = {"input_ids": _pad(ids, pad_id)}
        if len(set(map(len, ids))) > 1:  # else no mask: a GPU is asked whether it is all ones
            batch["attention_mask"] = _mask(ids)
        return batch | _select_logits(labels, trims_logits=trims_logits)

    return collate


def packed_collator(*, trims_logits: bool, mark_rows: bool = False) -> Collator:
    """Return a collator that lays the micro-batch end to end, without padding.

    Positions start again at 0 with each row; from them, or from the ends of the rows, the model
    knows which tokens see each other. The loss is that of the padded batch. `mark_rows` gives each
    row's first token the label ROW_START, by which the loss tells rows apart.
    """
    first = ROW_START if mark_rows else IGNORE

    def collate(rows: Sequence[EncodedExample]) -> Batch:
        ids = torch.tensor([[i for row in rows for i in row.ids]])  # (1, S)
        positions = torch.tensor([[p for row in rows for p in range(len(row))]])  # (1, S)
        # The first token of a row is not to be predicted from the row before.
        labels = torch.tensor([[i for row in rows for i in (first, *row.labels[1:])]])  # (1, S)
        ends = torch.tensor([0, *map(len, rows)]).cumsum(0).int()  # (R+1,)
        longest = max(map(len, rows))
        batch = {
            "input_ids": ids,
            "position_ids": positions,
            # by the names that attention has in transformers
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
        }
        return batch | _select_logits(labels, trims_logits=trims_logits)

    return collate


def seq2seq_collator(pad_id: int, *, start_id: int) -> Collator:
    """Return a collator for an encoder-decoder; the decoder reads its labels one step late."""

    def collate(rows: Sequence[EncodedExample]) -> Batch:
        ids = [row.ids for row in rows]
        return {
            "input_ids": _pad(ids, pad_id),
            "attention_mask": _mask(ids),
            "decoder_input_ids": _pad([[start_id, *row.labels[:-1]] for row in rows], pad_id),
            "labels": _pad([row.labels for row in rows], IGNORE),
        }

    return collate


def classification_collator(pad_id: int) -> Collator:
    """Return a collator for a sequence classifier: one label a row."""

    def collate(rows: Sequence[EncodedExample]) -> Batch:
        ids = [row.ids for row in rows]
        return {
            "input_ids": _pad(ids, pad_id),
            "attention_mask": _mask(ids),
            "labels": torch.tensor([row.labels[0] for row in rows]),  # (B,); float for a regression
        }

    return collate
