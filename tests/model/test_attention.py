"""Attention by length is the same attention, and a replay of an older run goes the older way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from qlora_repro.config.schema import RunConfig
from qlora_repro.model import attention
from qlora_repro.session import ModelSession
from qlora_repro.store.load import load_documents
from qlora_repro.sweep.replay import _with_later_settings

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
