"""What a library of kernels changes in a model and in transformers is undone when training ends."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from plain_training import TRAIN
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama import modeling_llama

from qlora_repro.data.collators import causal_collator
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.errors import ConfigError
from qlora_repro.lora.fused import find_fused_forwards, fuse_lora_layers
from qlora_repro.train import trainer
from qlora_repro.train.trainer import (
    Numerics,
    TrainingInputs,
    check_kernels,
    train_model,
)


def replace_as_liger_does(model: Any, _: object) -> None:
    """Stands in for Liger, which needs a GPU: it replaces a layer's methods, and functions."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    for module in base.modules():
        if isinstance(module, modeling_llama.LlamaRMSNorm):
            module.forward = double.__get__(module)
            module.offset = 0.0
    modeling_llama.LlamaRMSNorm = modeling_llama.LlamaMLP  # type: ignore[misc]
    modeling_llama.apply_rotary_pos_emb = rotate_twice


replaced: list[nn.Module] = []  # layers that computed otherwise


def double(module: nn.Module, x: Tensor) -> Tensor:
    replaced.append(module)
    return 2 * x


def rotate_twice(query: Tensor, key: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return 2 * query, 2 * key


def test_a_model_computes_as_before_once_liger_trained_it(
    llama: LlamaForCausalLM,
    rows: list[EncodedExample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a learning rate of zero, scores after training are those before."""
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    model, ids = get_peft_model(llama, lora), torch.arange(5, 29).reshape(2, 12)
    fuse_lora_layers(model)
    library = dict(vars(modeling_llama))
    replaced.clear()
    before = model.eval()(input_ids=ids).logits
    numerics = Numerics(
        autocast=False, fused_layers=0, tf32=False, kernels="liger", attention="sdpa"
    )
    monkeypatch.setattr(trainer, "_choose_numerics", lambda *_, **__: numerics)
    monkeypatch.setattr(trainer, "check_kernels", lambda _: None)
    monkeypatch.setattr(transformers.trainer, "apply_liger_kernel", replace_as_liger_does)
    inputs = TrainingInputs(
        rows=rows,
        collate=causal_collator(2, trims_logits=True),
        compute_dtype="float32",
        seed=0,
        folder=tmp_path,
    )
    train_model(model, inputs, cfg=replace(TRAIN, lr=0.0, max_steps=2, save_steps=0))
    assert torch.equal(model.eval()(input_ids=ids).logits, before)
    assert dict(vars(modeling_llama)) == library
    assert len(find_fused_forwards(model)) == 4
    assert replaced  # and in between it computed with the stand-in


def test_kernels_that_are_not_installed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    check_kernels("none")
    with pytest.raises(ConfigError, match=r"needs the package liger-kernel.*\[liger\]"):
        check_kernels("liger")
