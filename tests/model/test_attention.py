"""Attention by length is the same attention, and a replay of an older run goes the older way."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from qlora_repro.config.schema import RunConfig
from qlora_repro.data.collators import packed_collator
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.model import attention
from qlora_repro.session import ModelSession
from qlora_repro.store.load import load_documents
from qlora_repro.sweep.replay import _with_later_settings
from qlora_repro.train.loss import token_loss

HEADS, GROUPS, SIZE = 4, 2, 16


class Layer:
    is_causal = True
    num_key_value_groups = HEADS // GROUPS


def inputs(queries: int, keys: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, HEADS, queries, SIZE), (3, GROUPS, keys, SIZE), (3, GROUPS, keys, SIZE)]
    made = [torch.randn(shape, generator=generator) for shape in shapes]
    return [tensor.to(dtype).requires_grad_() for tensor in made]


def padded(queries: int, keys: int) -> Tensor:
    """Causal rows, the first with padding on its left that nothing sees."""
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    mask = mask.expand(3, 1, -1, -1).clone()
    mask[0, :, :, 1:3] = False
    return mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mask", [None, padded], ids=["causal", "padded"])
@pytest.mark.parametrize(("queries", "keys"), [(12, 12), (5, 12), (1, 12)])
def test_products_give_the_outputs_and_gradients_of_torch_s_kernel(
    queries: int, keys: int, mask: Any, dtype: torch.dtype
) -> None:
    seen = mask and mask(queries, keys)
    found = []
    for attend in (attention.attend, attention.sdpa_attention_forward):
        tensors = inputs(queries, keys, dtype)
        output, _ = attend(Layer(), *tensors, seen, scaling=0.3)
        output.float().pow(2).sum().backward()
        found.append([output, *(tensor.grad for tensor in tensors)])
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.05}
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **close)


@pytest.mark.parametrize(
    ("length", "dtype", "learns", "plain"),
    [
        (64, torch.float32, True, True),
        (65, torch.float32, True, False),
        (128, torch.bfloat16, True, True),
        (129, torch.bfloat16, True, False),
        (16, torch.bfloat16, False, False),  # scores stay as they were
        (16, torch.float32, False, False),
        (16, torch.float64, True, False),
    ],
)
def test_short_rows_that_train_take_products_and_all_others_the_kernel(
    length: int,
    dtype: torch.dtype,
    learns: bool,
    plain: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[int] = []
    whole = attention.attend_by_products

    def counting(*args: Any, **named: Any) -> Tensor:
        called.append(length)
        return whole(*args, **named)

    monkeypatch.setattr(attention, "attend_by_products", counting)
    with torch.set_grad_enabled(learns):
        tensors = [t if learns else t.detach() for t in inputs(length, length, dtype)]
        attention.attend(Layer(), *tensors, None)
    assert bool(called) is plain


def test_what_the_kernel_alone_can_do_goes_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "attend_by_products", lambda *_, **__: pytest.fail("products"))
    tensors = inputs(8, 8, torch.float32)
    attention.attend(Layer(), *tensors, torch.zeros(3, 1, 8, 8))  # a mask that is added
    attention.attend(Layer(), *tensors, None, dropout=0.5)


def test_a_model_trains_the_same_to_rounding(llama: LlamaForCausalLM) -> None:
    ids = torch.randint(3, 128, (4, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, -10:] = 0  # padding, as the collator puts it
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    losses, gradients = [], []
    for name in (attention.SDPA, attention.SHORT_ROWS):
        llama.set_attn_implementation(name)
        llama.zero_grad()
        loss = llama(**batch).loss
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append([p.grad.clone() for p in llama.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 5], ids=["whole rows", "sliding window"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_packed_rows_train_alike_one_by_one_and_behind_a_mask(
    checkpointing: bool, window: int | None, rows: list[EncodedExample]
) -> None:
    torch.manual_seed(0)
    config = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "use_cache": False}
    model = MistralForCausalLM(MistralConfig(**config, **heads, sliding_window=window)).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    batch = packed_collator(trims_logits=False)(rows[:4])
    labels = batch.pop("labels")
    losses, gradients = [], []
    for name in (attention.SDPA, attention.PACKED_ROWS):
        model.zero_grad()
        with attention.use_attention(model, name):
            loss = token_loss(model(**batch).logits, labels, count=None)
            loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        assert model.config._attn_implementation == attention.SDPA
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for masked, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(masked, alone, atol=1e-6, rtol=1e-4)


def test_packed_rows_keep_an_attention_that_the_user_chose(llama: LlamaForCausalLM) -> None:
    choose = partial(attention.choose_attention, llama, dtype=torch.float32)
    assert choose(packing=True) == attention.PACKED_ROWS
    assert choose(packing=False) == attention.SDPA
    llama.set_attn_implementation("eager")
    assert choose(packing=True) == "eager"


@pytest.mark.parametrize(
    ("capability", "dtype", "used"),
    [
        ((9, 0), torch.bfloat16, attention.PACKED_ROWS),
        ((9, 0), torch.float32, attention.SDPA),
        ((7, 5), torch.float16, attention.SDPA),
    ],
)
def test_a_gpu_without_the_kernel_for_rows_keeps_them_apart_by_a_mask(
    capability: tuple[int, int],
    dtype: torch.dtype,
    used: str,
    llama: LlamaForCausalLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A parameter that says it is on a GPU stands in for one."""
    weight = SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(llama, "parameters", lambda: iter([weight]))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert attention.choose_attention(llama, packing=True, dtype=dtype) == used


@pytest.mark.parametrize(("asked", "used"), [("auto", "by_length"), ("sdpa", "sdpa")])
def test_the_manifest_says_which_attention_a_model_has(
    asked: str, used: str, configured: Callable[..., RunConfig], tmp_path: Path
) -> None:
    loaded = ModelSession(configured("model=tiny", f"model.attention={asked}"), tmp_path).base()
    assert loaded.origin["attention"] == used
    assert "by_length" not in loaded.model.config.to_json_string()


def test_a_replay_of_an_older_run_has_the_older_attention() -> None:
    origin = load_documents("origin-*.json")["document"].iloc[0]
    assert _with_later_settings(origin["config"])["model"]["attention"] == "sdpa"
