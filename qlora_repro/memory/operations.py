"""Floating-point operations of training and scoring, and how long a card takes for them.

Products of matrices count, and what a pass through a block takes beside them whatever its tokens,
for kernels wait to be started. A product of (m, k) and (k, n) is 2 m k n operations. Sequences
count at full length, which few rows of a dataset have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qlora_repro.config.schema import EvalConfig, PlanConfig, RunConfig
from qlora_repro.memory.architecture import Architecture, Linear
from qlora_repro.memory.micro_batch import settle_micro_batch_of_plan
from qlora_repro.memory.settings import Setting, architecture, setting


@dataclass(frozen=True, kw_only=True)
class Products:
    """Operations of one forward pass over one sequence."""

    base: int  # linear layers of the base model
    adapters: int
    attention: int  # queries with keys, and their weights with values; half of it, as it is causal
    output: int  # logits of the positions that the loss sees


def count_products(sizes: Architecture, asked: Setting, adapted: Sequence[Linear]) -> Products:
    """Return the operations of a forward pass over a sequence of `asked.length` tokens."""
    queries = sum(x.n_in for x in sizes.linears if x.role == "o")
    adapters = 0 if asked.full else sum(linear.adapter(asked.r) for linear in adapted)
    return Products(
        base=2 * sizes.quantizable * asked.length,
        adapters=2 * adapters * asked.length,
        attention=2 * queries * asked.length**2,
        output=2 * sizes.vocab * sizes.hidden * asked.predicted,
    )


def training_operations(sizes: Architecture, asked: Setting, adapted: Sequence[Linear]) -> int:
    """Return the operations of training on one sequence, forward and backward.

    The backward pass has a product for the gradient of each layer's input, and one for that of its
    weight where it trains: adapters', or all of them. Checkpointing computes the blocks once more.
    """
    one = count_products(sizes, asked, adapted)
    blocks = one.base + one.adapters + one.attention
    forward = blocks + one.output
    backward = one.base + 2 * one.adapters + 2 * one.attention + one.output
    weights = one.base + one.output if asked.full else 0
    return forward + backward + weights + (blocks if asked.checkpointing else 0)


def scoring_operations(sizes: Architecture, asked: Setting, adapted: Sequence[Linear]) -> int:
    """Return the operations of scoring one sequence: a forward pass."""
    one = count_products(sizes, asked, adapted)
    return one.base + one.adapters + one.attention + one.output


def training_seconds(cfg: RunConfig) -> float | None:
    """Return what training a cell takes, s on one card; None without plan.tflops."""
    if cfg.plan.tflops is None:
        return None
    asked = setting(settle_micro_batch_of_plan(cfg))
    sizes, adapted = architecture(cfg.model, cfg.lora.target, layers=cfg.lora.layers)
    rows = cfg.train.max_steps * cfg.train.batch_size
    products = rows * training_operations(sizes, asked, adapted)
    passes = rows / asked.rows * (3 if asked.checkpointing else 2)
    return products / _rate(cfg.plan) + passes * _pass_seconds(sizes, cfg.plan)


def scoring_seconds(cfg: RunConfig) -> float | None:
    """Return what scoring a model once takes, s on one card; None where it cannot be told.

    Texts have as many tokens as the configuration says. How long questions are is not known before
    they are read: their tokens are those of plan.score_tokens, if it has any.
    """
    tokens, plan = text_tokens(cfg.eval), cfg.plan
    if cfg.eval.tasks:
        if plan.score_tokens is None:
            return None
        tokens += plan.score_tokens
    if plan.tflops is None or not tokens:
        return None
    asked = setting(settle_micro_batch_of_plan(cfg))
    sizes, adapted = architecture(cfg.model, cfg.lora.target, layers=cfg.lora.layers)
    rows = tokens / asked.length
    products = rows * scoring_operations(sizes, asked, adapted)
    passes = rows / cfg.eval.batch_size
    return products / _rate(plan) + passes * _pass_seconds(sizes, plan)


def text_tokens(scored: EvalConfig) -> int:
    """Return the tokens that windows over a text have together; 0 where none or all is scored."""
    if scored.perplexity_file is None or scored.perplexity_tokens is None:
        return 0
    overlap = scored.perplexity_window / (scored.perplexity_stride or scored.perplexity_window)
    return round(scored.perplexity_tokens * overlap)


def _rate(plan: PlanConfig) -> float:
    """Return the operations a second."""
    assert plan.tflops is not None
    return plan.tflops * 1e12 * plan.utilization


def _pass_seconds(sizes: Architecture, plan: PlanConfig) -> float:
    """Return what a pass through all blocks takes beside its products."""
    return len(sizes.blocks) * plan.block_ms / 1e3
