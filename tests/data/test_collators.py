import pytest
import torch
from transformers import LlamaForCausalLM

from qlora_repro.data.collators import (
    IGNORE,
    causal_collator,
    classification_collator,
    packed_collator,
    seq2seq_collator,
)
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.train.loss import token_loss


def loss_of(model: LlamaForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    labels = batch.pop("labels")
    return token_loss(model(**batch).logits, labels, count=None)


def loss_one_by_one(model: LlamaForCausalLM, rows: list[EncodedExample]) -> torch.Tensor:
    """transformers' own causal loss, a row at a time: no padding, no trimming, no packing."""
    total, count = torch.zeros(()), 0
    for row in rows:
        n = row.trained
        ids, labels = torch.tensor([row.ids]), torch.tensor([row.labels])
        total = total + model(input_ids=ids, labels=labels).loss * n
        count += n
    return total / count


@pytest.mark.parametrize("trims", [True, False])
def test_padded_batch_has_the_loss_and_gradients_of_its_rows_alone(
    llama: LlamaForCausalLM, rows: list[EncodedExample], trims: bool
) -> None:
    expected = loss_one_by_one(llama, rows[:6])
    expected.backward()
    wanted = {n: p.grad.clone() for n, p in llama.named_parameters() if p.grad is not None}
    llama.zero_grad()
    loss = loss_of(llama, causal_collator(2, trims_logits=trims)(rows[:6]))
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    for name, parameter in llama.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("trims", [True, False])
def test_packed_batch_has_the_loss_of_its_rows_alone(
    llama: LlamaForCausalLM, rows: list[EncodedExample], trims: bool
) -> None:
    llama.config.use_cache = (
        False  # as in training: with a cache the mask is not made from positions
    )
    loss = loss_of(llama, packed_collator(trims_logits=trims)(rows[:6]))
    torch.testing.assert_close(loss, loss_one_by_one(llama, rows[:6]), atol=1e-6, rtol=1e-6)


def test_end_of_sequence_is_learned_where_padding_is_the_same_token(
    rows: list[EncodedExample],
) -> None:
    batch = causal_collator(2, trims_logits=False)(rows[:4])
    learned = batch["labels"][:, 1:]  # label p + 1 belongs to logit p
    for row, line in zip(rows[:4], learned, strict=True):
        assert line[len(row) - 2] == 2  # the end of sequence, predicted from the token before it
        assert (line[len(row) - 1 :] == IGNORE).all()  # the padding after it, also token 2


def test_trimming_keeps_just_the_positions_before_targets(rows: list[EncodedExample]) -> None:
    full = causal_collator(2, trims_logits=False)(rows[:4])["labels"][:, 1:]
    batch = causal_collator(2, trims_logits=True)(rows[:4])
    keep = batch["logits_to_keep"]
    assert torch.equal(batch["labels"][:, 1:], full[:, keep])
    assert (full[:, keep] != IGNORE).any(dim=0).all()
    assert (full != IGNORE).sum() == (batch["labels"] != IGNORE).sum()


def test_decoder_reads_its_labels_one_step_late() -> None:
    made = [
        EncodedExample(ids=[5, 6, 1], labels=[7, 8, 1], truncated=False),
        EncodedExample(ids=[5, 1], labels=[9, 1], truncated=False),
    ]
    batch = seq2seq_collator(0, start_id=0)(made)
    assert batch["decoder_input_ids"].tolist() == [[0, 7, 8], [0, 9, 0]]
    assert batch["labels"].tolist() == [[7, 8, 1], [9, 1, IGNORE]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_classifier_gets_one_label_a_row() -> None:
    made = [
        EncodedExample(ids=[5, 6], labels=[1], truncated=False),
        EncodedExample(ids=[5], labels=[0], truncated=False),
    ]
    batch = classification_collator(0)(made)
    assert batch["labels"].tolist() == [1, 0]
    assert batch["input_ids"].tolist() == [[5, 6], [5, 0]]
