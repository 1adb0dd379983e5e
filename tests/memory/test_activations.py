"""Activations against autograd itself: the bytes that it saves in a forward pass."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM

from qlora_repro.config.schema import RunConfig
from qlora_repro.memory.activations import activation_memory
from qlora_repro.memory.checkpoint_architecture import read_model_architecture
from qlora_repro.memory.settings import PlannedRun, plan_run
from qlora_repro.session import ModelSession

ROWS, LENGTH = 2, 96
SLACK = 0.002  # token numbers and the like
WAYS = {
    "nf4": ("dtype=nf4",),
    "16-bit": ("dtype=bf16", "dq=false"),
    "query and value": ("lora=qv",),
    "feed-forward": ("lora=ffn",),
    "the last block": ("lora.layers=[1]",),
    "dropout": ("lora.dropout=0.1",),
    "every weight": ("lora=none", "dtype=bf16", "dq=false"),
}


def saved_bytes(model: Any, *, padded: bool, vocab: int = 500) -> int:
    """Return the bytes that autograd saves, weights left out; each storage counts once."""
    held = {w.untyped_storage().data_ptr() for w in (*model.parameters(), *model.buffers())}
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in held:
            found[tensor.untyped_storage().data_ptr()] = tensor  # kept, so that none is reused
        return tensor

    ids = torch.randint(4, vocab, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, LENGTH // 2 :] = 0
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(input_ids=ids, attention_mask=mask)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_forward_pass_saves_what_was_counted(
    way: str, padded: bool, configured: Callable[..., RunConfig], tmp_path: Path
) -> None:
    cfg = configured("model=tiny", "lora.r=8", *WAYS[way])
    run = replace(plan_run(cfg), rows=ROWS, length=LENGTH, ragged=padded)
    counted = activation_memory(run, checkpointing=False).stored
    saved = saved_bytes(ModelSession(cfg, tmp_path).trainable().model.train(), padded=padded)
    assert counted == pytest.approx(saved, rel=SLACK)


def test_checkpointing_keeps_an_input_a_block_and_computes_one_block_anew(
    configured: Callable[..., RunConfig],
) -> None:
    cfg = configured("model=llama_7b", "plan.length=512")
    run = plan_run(cfg)
    found = activation_memory(run, checkpointing=True)
    tokens, hidden, blocks = 512, 4096, 32
    tables = 2 * 2 * tokens * (hidden // 32)
    assert found.stored == tokens * (blocks * 2 * hidden + 4 * hidden + 4) + tables
    whole = activation_memory(run, checkpointing=False)
    assert 8 < whole.peak / found.peak < 12


def test_blocks_below_the_first_adapter_keep_nothing(configured: Callable[..., RunConfig]) -> None:
    cfg = configured("model=llama_7b", "lora.layers=[31]")
    of_one = plan_run(cfg)
    of_all = replace(of_one, adapted=of_one.sizes.linears)
    least, most = (activation_memory(run, checkpointing=False) for run in (of_one, of_all))
    assert least.stored < most.stored / 30


def test_a_mask_widens_grouped_keys_to_all_heads(llama: LlamaForCausalLM) -> None:
    sizes = read_model_architecture(llama)
    model = get_peft_model(llama, LoraConfig(r=4, target_modules=["q_proj", "v_proj"])).train()
    for padded in (False, True):
        run = PlannedRun(
            sizes=sizes,
            adapted=tuple(x for x in sizes.linears if x.role in ("q", "v")),
            dtype="bf16",
            backend="none",
            blocksize=64,
            dq=False,
            compute_bytes=4,
            base_bytes=4,
            fused=False,
            r=4,
            full_finetuning=False,
            adapter_bytes=4,
            optim="adamw_torch",
            batch_size=ROWS,
            rows=ROWS,
            ragged=padded,
            length=LENGTH,
            loss_positions=LENGTH,
            checkpointing=False,
            dropout=False,
        )
        counted = activation_memory(run, checkpointing=False).stored
        assert counted == pytest.approx(saved_bytes(model, padded=padded, vocab=100), rel=SLACK)
