"""Rows on a GPU: dropout by row, and packed rows in torch's kernel for rows of unequal length."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from plain_training import TRAIN
from transformers import LlamaConfig, LlamaForCausalLM

from qlora_repro.data.collators import causal_collator, packed_collator
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.model import attention
from qlora_repro.train.loss import token_loss
from qlora_repro.train.trainer import TrainingInputs, TrainResult, train_model

pytestmark = pytest.mark.gpu
ROUNDING = 2**-8  # of a bfloat16
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 128}


def small_llama(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "use_cache": False}
    return LlamaForCausalLM(LlamaConfig(**SIZES, **heads, pad_token_id=2)).to("cuda", dtype)


def train_with_dropout(
    rows: list[EncodedExample], folder: Path, *, dtype: str, **changes: Any
) -> TrainResult:
    model = small_llama(getattr(torch, dtype))
    lora = LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj", "down_proj"])
    packed = changes.get("packing", False)
    inputs = TrainingInputs(
        rows=rows,
        collate=(packed_collator if packed else lambda **how: causal_collator(2, **how))(
            trims_logits=True
        ),
        compute_dtype=dtype,
        seed=0,
        folder=folder,
    )
    cfg = replace(TRAIN, max_steps=4, save_steps=0, **changes)
    return train_model(get_peft_model(model, lora), inputs, cfg=cfg)


@pytest.mark.parametrize("packing", [False, True])
def test_a_batch_has_the_same_masks_however_it_is_cut_up(
    packing: bool, rows: list[EncodedExample], tmp_path: Path
) -> None:
    losses = [
        [
            step.loss
            for step in train_with_dropout(
                rows, tmp_path, dtype="float32", micro_batch_size=size, packing=packing
            ).steps
        ]
        for size in (4, 2, 1)
    ]
    for divided in losses[1:]:  # other masks move a loss by a tenth
        assert divided == pytest.approx(losses[0], rel=2e-3)


def test_packed_rows_train_by_the_kernel_for_rows(
    rows: list[EncodedExample], tmp_path: Path
) -> None:
    packed = train_with_dropout(rows, tmp_path, dtype="bfloat16", packing=True)
    padded = train_with_dropout(rows, tmp_path, dtype="bfloat16")
    assert packed.numerics.attention == attention.PACKED_ROWS
    assert padded.numerics.attention == attention.SDPA
    losses = [[step.loss for step in result.steps] for result in (packed, padded)]
    assert losses[0] == pytest.approx(losses[1], rel=4 * ROUNDING)


def test_the_kernel_for_rows_gives_the_gradients_of_a_mask(rows: list[EncodedExample]) -> None:
    model = small_llama(torch.bfloat16).train()
    batch = {
        name: value.cuda() if isinstance(value, torch.Tensor) else value
        for name, value in packed_collator(trims_logits=False)(rows[:6]).items()
    }
    labels = batch.pop("labels")
    gradients = []
    for name in (attention.SDPA, attention.PACKED_ROWS):
        model.zero_grad()
        with attention.use_attention(model, name):
            token_loss(model(**batch).logits, labels, count=None).backward()
        gradients.append([p.grad.float() for p in model.parameters() if p.grad is not None])
    for masked, by_row in zip(*gradients, strict=True):
        assert (masked - by_row).norm() <= 8 * ROUNDING * masked.norm()
