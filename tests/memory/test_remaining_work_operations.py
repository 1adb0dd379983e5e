"""Operations against torch's own count, and a time against the paper's day for 65B."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from qlora_repro.config.schema import RunConfig
from qlora_repro.memory.remaining_work import (
    count_text_tokens,
    estimate_scoring_seconds,
    estimate_training_seconds,
    forward_operations,
    scoring_operations,
    training_operations,
)
from qlora_repro.memory.settings import PlannedRun, plan_run
from qlora_repro.session import ModelSession
from qlora_repro.train.memory import NEW_NAME, OLD_NAME

Configured = Callable[..., RunConfig]
LENGTH = 128
DAY = 86_400  # s
A6000 = 155  # TFLOP/s of dense products in 16 bits, as NVIDIA states


def counted(model: Any, *, backward: bool) -> int:
    """Return the operations that torch counts in a pass over one row."""
    ids = torch.randint(4, 500, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, labels=ids).loss
        if backward:
            loss.backward()
    total: int = counter.get_total_flops()
    return total


def planned(cfg: RunConfig) -> PlannedRun:
    return replace(plan_run(cfg), length=LENGTH, loss_positions=LENGTH)


@pytest.mark.parametrize(
    "words", [("lora=all",), ("lora=qv",), ("lora=none", "train=full")], ids=lambda w: w[0]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_takes_the_operations_that_torch_counts(
    words: tuple[str, ...], checkpointing: bool, configured: Configured, tmp_path: Path
) -> None:
    plain = ("model=tiny", "dtype=bf16", "dq=false", "lora.fused=false", "lora.dropout=0")
    cfg = configured(*plain, *words, f"train.gradient_checkpointing={checkpointing}")
    model: Any = ModelSession(cfg, tmp_path).trainable().model.train()
    if checkpointing:
        name = NEW_NAME if hasattr(model, f"{NEW_NAME}_enable") else OLD_NAME
        getattr(model, f"{name}_enable")({"use_reentrant": False})
    attention = (3 + checkpointing) * forward_operations(planned(cfg)).attention
    predicted = training_operations(planned(cfg)) - attention  # which torch counts on GPUs alone
    # The first block's inputs want no gradient, which is a part of two blocks and not of 32.
    assert predicted == pytest.approx(counted(model, backward=True), rel=0.08)


def test_scoring_takes_those_of_a_forward_pass(configured: Configured, tmp_path: Path) -> None:
    cfg = configured("model=tiny", "dtype=bf16", "dq=false", "lora.fused=false", "lora.dropout=0")
    model = ModelSession(cfg, tmp_path).trainable().model.eval()
    attention = forward_operations(planned(cfg)).attention
    predicted = scoring_operations(planned(cfg)) - attention
    assert predicted == counted(model, backward=False)


def test_causal_attention_takes_half_of_what_torch_counts_for_all_pairs(
    configured: Configured,
) -> None:
    cfg = configured("model=llama_7b")
    shape = (1, 32, LENGTH, 128)  # heads, tokens, width
    every = 32 * sdpa_flop_count(shape, shape, shape)
    assert forward_operations(planned(cfg)).attention == every // 2


def test_a_run_takes_its_rows_over_the_rate_that_the_card_reaches(configured: Configured) -> None:
    words = ("model=llama_65b", "data=oasst1", "train.max_steps=1875", "train.batch_size=16")
    cfg = configured(*words, f"plan.tflops={A6000}")
    each = training_operations(plan_run(cfg))
    assert each == pytest.approx(6 * 65e9 * 528, rel=0.05)  # forward twice, backward once
    passes = 30_000 * 3 * 80 * 4.7e-3
    seconds = estimate_training_seconds(cfg)
    assert seconds == pytest.approx(30_000 * each / (A6000 * 1e12 * 0.8) + passes)
    assert seconds == pytest.approx(DAY, rel=0.1)  # the paper's "24 hours"


def test_without_a_rate_there_is_no_time(configured: Configured) -> None:
    cfg = configured("model=llama_7b", "data=alpaca")
    assert cfg.plan.tflops is None
    assert estimate_training_seconds(cfg) is None
    assert estimate_scoring_seconds(cfg) is None


MEASURED = {  # of one row of 512 tokens with checkpointing, s on an H100 of 739 TFLOP/s
    "llama_7b": 0.476,
    "llama_13b": 0.699,
    "llama_33b": 1.147,
    "llama_65b": 1.466,
}


@pytest.mark.parametrize(("model", "seconds"), MEASURED.items())
def test_a_step_of_one_row_takes_what_was_measured(
    model: str, seconds: float, configured: Configured
) -> None:
    one = ("train.max_steps=1", "train.batch_size=1", "train.gradient_checkpointing=true")
    words = ("data.train_on_source=true", "plan.length=512", "plan.tflops=739")
    predicted = estimate_training_seconds(configured(f"model={model}", *one, *words))
    assert predicted == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize(("way", "seconds"), [("true", 0.984), ("false", 0.984 / 1.434)])
def test_a_micro_batch_of_16_takes_what_was_measured(
    way: str, seconds: float, configured: Configured
) -> None:
    one = ("train.max_steps=1", "train.batch_size=16", "train.micro_batch_size=16")
    words = ("data.train_on_source=true", "plan.length=512", "plan.tflops=739")
    cfg = configured("model=llama_7b", *one, *words, f"train.gradient_checkpointing={way}")
    assert estimate_training_seconds(cfg) == pytest.approx(seconds, rel=0.15)


def test_a_text_is_scored_in_windows_that_may_overlap(
    configured: Configured, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("text")
    words = ("eval=perplexity", f"eval.perplexity_file={tmp_path / 'text'}")
    cfg = configured(*words, "eval.perplexity_tokens=1000", "eval.perplexity_window=100")
    assert count_text_tokens(cfg.eval) == 1000
    assert count_text_tokens(replace(cfg.eval, perplexity_stride=25)) == 4000
    assert count_text_tokens(replace(cfg.eval, perplexity_tokens=None)) == 0
