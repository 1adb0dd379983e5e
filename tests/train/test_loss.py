"""The loss, against torch's own and against micro-batches of one, as the authors train."""

import pytest
import torch

from qlora_repro.data.collators import causal_collator, packed_collator
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.train import loss as losses
from qlora_repro.train.loss import IGNORE, ChunkedCrossEntropy, sequence_loss, token_loss

V = 37


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_give_the_loss_and_the_gradient_of_all_rows_at_once(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "LOSS_CHUNK", 3 * V)
    torch.manual_seed(0)
    logits = torch.randn(11, V).to(dtype).requires_grad_()
    targets = torch.randint(0, V, (11,))
    targets[::4] = IGNORE
    weights = torch.rand(11)
    ours = ChunkedCrossEntropy.apply(logits, targets)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), logits)
    plain = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    (expected,) = torch.autograd.grad((plain * weights).sum(), logits)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradient, expected)


def rows() -> list[EncodedExample]:
    """Three rows of 5, 9 and 3 tokens of which 2, 4 and none are trained on."""
    torch.manual_seed(1)
    made = []
    for length, learned in ((5, 2), (9, 4), (3, 0)):
        ids = torch.randint(3, V, (length,)).tolist()
        labels = [IGNORE] * (length - learned) + ids[length - learned :]
        made.append(EncodedExample(ids=ids, labels=labels, truncated=False))
    return made


def logits_of(ids: torch.Tensor) -> torch.Tensor:
    """Return (B, T, V) logits that depend on the token alone, as a stand-in for a model."""
    table = torch.randn(V, V, generator=torch.Generator().manual_seed(2))
    return table[ids]


def test_the_mean_of_sequences_is_that_of_micro_batches_of_one() -> None:
    every = rows()
    alone = []
    for row in every[:2]:
        batch = causal_collator(0, trims_logits=False)([row])
        alone.append(token_loss(logits_of(batch["input_ids"]), batch["labels"], count=None))
    expected = sum(alone) / len(every)  # the third one teaches nothing
    batch = causal_collator(0, trims_logits=False)(every)
    padded = sequence_loss(logits_of(batch["input_ids"]), batch["labels"], sequences=3)
    torch.testing.assert_close(padded, expected)
    batch = packed_collator(trims_logits=True, mark_rows=True)(every)
    logits = logits_of(batch["input_ids"])[:, batch["logits_to_keep"]]
    torch.testing.assert_close(sequence_loss(logits, batch["labels"], sequences=3), expected)


def test_the_mean_of_tokens_is_another() -> None:
    batch = causal_collator(0, trims_logits=False)(rows())
    logits = logits_of(batch["input_ids"])
    by_token = token_loss(logits, batch["labels"], count=None)
    by_sequence = sequence_loss(logits, batch["labels"], sequences=2)
    assert abs(by_token - by_sequence) > 0.01
