"""Attention on a CPU: plain matrix products to train on short rows, torch's kernel elsewhere.

The backward pass of torch's kernel for CPUs takes many times its forward pass on short rows, most
of all in bfloat16. Which of the two runs follows from shape and dtype alone, so a run always goes
the same way; the two agree to rounding. Scores and answers, which need no gradient, and everything
on a GPU stay with torch's kernel.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

SDPA, SHORT_ROWS = "sdpa", "by_length"  # names that transformers knows, the second once registered
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


AttentionInterface.register(SHORT_ROWS, attend)
AttentionMaskInterface.register(SHORT_ROWS, sdpa_mask)
