"""Attention where another way than torch's kernel is faster: short rows on a CPU, and packed rows.

The backward pass of torch's kernel for CPUs takes many times its forward pass on short rows, most
of all in bfloat16; there plain matrix products train. Rows that are packed end to end see only
themselves: each is attended to alone, by torch's kernel for rows of unequal length on a GPU, where
a mask over the whole pack would cost the square of its length. Which way runs follows from shape,
dtype and device alone, so a run always goes the same way, and all agree to rounding. Scores and
answers, which need no gradient, stay with torch's kernel.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

varlen_attn: Any = None  # torch 2.9 and older
with suppress(ImportError):
    from torch.nn.attention.varlen import varlen_attn

SDPA = "sdpa"
SHORT_ROWS, PACKED_ROWS = "by_length", "by_row"  # names that transformers knows once registered
HALF = (torch.bfloat16, torch.float16)
FLASH_CAPABILITY = (8, 0)  # of the GPUs that have the kernel: Ampere and later
# Queries times keys up to which products are faster, by experiments/benchmarks/bench_attention.py.
MAX_PAIRS = {torch.float32: 64 * 64, torch.bfloat16: 128 * 128}


def set_attention(model: PreTrainedModel, name: str) -> str:
    """Let a model attend by length where `name` is auto and it is on a CPU; return what it does."""
    device = next(model.parameters()).device
    if name == "auto" and device.type == "cpu" and model.config._attn_implementation == SDPA:
        model.set_attn_implementation(SHORT_ROWS)
    used: str = model.config._attn_implementation
    return used


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as `attend_by_products` does where that is faster, with torch's kernel elsewhere."""
    plain = (
        query.device.type == "cpu"
        and query.requires_grad
        and query.shape[2] * key.shape[2] <= MAX_PAIRS.get(query.dtype, 0)
        and not kwargs.get("dropout")
        and all(kwargs.get(name) is None for name in ("position_bias", "cache", "softcap"))
        and (attention_mask is None or attention_mask.dtype == torch.bool)
    )
    if not plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if attention_mask is None and causal and query.shape[2] > 1:
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]  # as torch's does
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scaling = kwargs.get("scaling")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend_by_products(query, key, value, attention_mask, scale=scale), None


def attend_by_products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scale: float
) -> Tensor:
    """Return attention's output (B, Q, H, D) by matrix products and a softmax in float32.

    B rows, H query heads in groups on G key heads, Q queries, K keys, D values a head. `query` is
    (B, H, Q, D), `key` and `value` (B, G, K, D); `mask` is True where a query sees a key.
    """
    batch, heads, queries, size = query.shape
    groups, keys = key.shape[1:3]
    rows = (query * scale).reshape(batch, groups, -1, size)  # (B, G, H/G * Q, D): keys stay single
    scores = (rows @ key.mT).view(batch, heads, queries, keys)  # (B, H, Q, K)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    output = weights.view(batch, groups, -1, keys) @ value  # (B, G, H/G * Q, D)
    return output.view(batch, heads, queries, -1).transpose(1, 2).contiguous()


def choose_attention(model: PreTrainedModel, *, packing: bool, dtype: torch.dtype) -> str:
    """Return the attention to train with: the model's own, or for packed rows one row at a time.

    A model that the user gave another attention than torch's keeps it. So does one on a GPU without
    the kernel: a mask keeps the rows of a pack apart there.
    """
    current: str = model.config._attn_implementation
    device = next(model.parameters()).device
    if packing and current in (SDPA, SHORT_ROWS) and _has_row_kernel(device, dtype):
        return PACKED_ROWS
    return current


@contextmanager
def use_attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Have a model attend as `name` says while the body runs."""
    before: str = model.config._attn_implementation
    if name == before:
        yield
        return
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _has_row_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether rows can be attended to one by one there without asking a GPU for their lengths."""
    if device.type != "cuda":
        return device.type == "cpu"
    able = torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY
    return able and dtype in HALF and varlen_attn is not None


def attend_packed_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention's output (1, S, H, D) for rows that lie end to end, each causal in itself.

    Args:
        module: The layer.
        query: (1, H, S, D), S the tokens of all rows.
        key: (1, G, S, D), G divides H.
        value: (1, G, S, D).
        attention_mask: None: what a row sees follows from its ends.
        **kwargs: By the names of transformers: where rows start and the last one ends, (R + 1,)
            int32; the tokens of the longest; the scale of the scores, and a sliding window.
    """
    ends: Tensor = kwargs["cu_seq_lens_q"]
    window, scale = kwargs.get("sliding_window"), kwargs.get("scaling")
    if query.device.type == "cuda":
        heads = query.shape[1] // key.shape[1]
        rows = [query, *(t.repeat_interleave(heads, 1) if heads > 1 else t for t in (key, value))]
        output = varlen_attn(
            *(tensor[0].transpose(0, 1) for tensor in rows),  # (S, H, D)
            ends,
            ends,
            kwargs["max_length_q"],
            kwargs["max_length_q"],
            scale=scale,
            window_size=(-1 if window is None else window - 1, 0),
        )
        return output[None], None
    outputs = []
    for start, end in pairwise(ends.tolist()):
        q, k, v = (tensor[:, :, start:end] for tensor in (query, key, value))  # (1, H, T, D)
        mask = None
        if window is not None and window < end - start:
            mask = torch.ones(end - start, end - start, dtype=torch.bool).tril().triu(1 - window)
        outputs.append(attend(module, q, k, v, mask, scaling=scale, is_causal=True)[0])
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(SHORT_ROWS, attend)
AttentionMaskInterface.register(SHORT_ROWS, sdpa_mask)
AttentionInterface.register(PACKED_ROWS, attend_packed_rows)  # without a mask: transformers asks
