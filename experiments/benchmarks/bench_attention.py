"""Attention on a CPU by length: plain products against torch's kernel, forward and backward.

    python -m experiments.benchmarks.bench_attention [--rounds 15] [--rows 8]

In the shapes of the embedded model, 9 query heads on 3 key heads of 64. The two take turns, and
each counts with its fastest time. MOST_PAIRS in qlora_repro/model/attention.py is where the ratio
falls to 1.
"""

import argparse
import time
from collections.abc import Callable

import torch
from rich.table import Table
from torch import Tensor, nn

from qlora_repro.console import say

HEADS, GROUPS, SIZE = 9, 3, 64
LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Layer(nn.Module):
    """What transformers' function reads off an attention layer."""

    is_causal = True
    num_key_value_groups = HEADS // GROUPS


def by_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attend as transformers does with its default."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(Layer(), query, key, value, mask, scaling=SIZE**-0.5)[0]


def by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attend by matrix products."""
    from qlora_repro.model.attention import attend_by_products

    return attend_by_products(query, key, value, mask, scale=SIZE**-0.5)


def seconds(attend: Attend, inputs: tuple[Tensor, ...], mask: Tensor, *, backward: bool) -> float:
    """Return how long one pass takes."""
    for tensor in inputs:
        tensor.grad = None
    began = time.perf_counter()
    with torch.set_grad_enabled(backward):
        output = attend(*inputs, mask)
    if backward:
        output.sum().backward()
    return time.perf_counter() - began


def main() -> None:
    """Measure every length in float32 and bfloat16, training and scoring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=8)
    asked = parser.parse_args()
    table = Table(title=f"attention of {asked.rows} rows, {torch.get_num_threads()} threads: ms")
    for heading in ("dtype", "length", "pass", "kernel", "products", "ratio"):
        table.add_column(heading, justify="right")
    for dtype in (torch.float32, torch.bfloat16):
        for length in LENGTHS:
            shapes = [(asked.rows, n, length, SIZE) for n in (HEADS, GROUPS, GROUPS)]
            inputs = tuple(torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes)
            mask = torch.ones(length, length, dtype=torch.bool).tril()
            mask = mask.expand(asked.rows, 1, -1, -1).contiguous()
            mask[0, :, :, : length // 4] = False  # a row is padded on the left
            mask[0, :, :, 0] = True
            for backward in (True, False):
                best = [
                    min(pair)
                    for pair in zip(
                        *(
                            [
                                seconds(attend, inputs, mask, backward=backward)
                                for attend in (by_kernel, by_products)
                            ]
                            for _ in range(asked.rounds)
                        ),
                        strict=True,
                    )
                ]
                kernel, products = (1000 * one for one in best)
                table.add_row(
                    *(str(dtype).removeprefix("torch."), str(length)),
                    "training" if backward else "scoring",
                    *(f"{kernel:.2f}", f"{products:.2f}", f"{kernel / products:.2f}"),
                )
    say(table)


if __name__ == "__main__":
    main()
