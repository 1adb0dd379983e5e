import copy
import math
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from qlora_repro.errors import ConfigError, DataError
from qlora_repro.eval.perplexity import (
    TokenLosses,
    Windowing,
    cut_windows,
    measure_perplexity,
    read_text,
)

TEXT = "In the beginning there was a text, and it was longer than one window. " * 2


def test_losses_equal_a_direct_computation_window_by_window(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    found = measure_perplexity(
        random_llama,
        byte_tokenizer,
        TEXT,
        windowing=Windowing(window=32, max_tokens=100, batch_size=3),
    )
    ids = byte_tokenizer(TEXT, return_tensors="pt").input_ids[0, :100]
    expected: list[float] = []
    for window in ids.split(32):
        with torch.no_grad():
            logits = random_llama(window[None]).logits[0, :-1]
        expected += cross_entropy(logits, window[1:], reduction="none").tolist()
    assert found.losses == pytest.approx(expected, abs=1e-4)
    assert len(found.losses) == len(found.ids) == 100 - 4
    assert found.perplexity == pytest.approx(math.exp(sum(expected) / len(expected)), rel=1e-4)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.nn.init.zeros_(random_llama.lm_head.weight)
    found = measure_perplexity(
        random_llama,
        byte_tokenizer,
        TEXT,
        windowing=Windowing(window=16, max_tokens=None, batch_size=2),
    )
    assert found.perplexity == pytest.approx(258, rel=1e-5)
    metrics = {metric.name: metric for metric in found.metrics(run_id="r")}
    assert metrics["nats_per_token"].value == pytest.approx(math.log(258))
    assert metrics["nats_per_token"].stderr == pytest.approx(0, abs=1e-6)
    assert metrics["perplexity"].n == len(found.losses)


def test_the_batch_size_does_not_move_the_losses(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    one, many = (
        measure_perplexity(
            random_llama,
            byte_tokenizer,
            TEXT,
            windowing=Windowing(window=30, max_tokens=None, batch_size=size),
        )
        for size in (1, 5)
    )
    assert one.losses == pytest.approx(many.losses, abs=1e-5)


def test_it_leaves_the_model_in_training_mode(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    random_llama.train()
    measure_perplexity(
        random_llama,
        byte_tokenizer,
        TEXT,
        windowing=Windowing(window=32, max_tokens=40, batch_size=1),
    )
    assert random_llama.training
    assert torch.is_grad_enabled()


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    with pytest.raises(DataError, match="which is empty"):
        read_text(str(empty))
    with pytest.raises(DataError, match="cannot be read"):
        read_text(str(empty.with_name("none.txt")))


def test_a_text_of_one_token_or_a_window_of_one_is_refused(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(DataError, match="has 1 tokens"):
        measure_perplexity(
            random_llama,
            byte_tokenizer,
            "a",
            windowing=Windowing(window=8, max_tokens=None, batch_size=1),
        )
    with pytest.raises(ConfigError, match="window is 1"):
        measure_perplexity(
            random_llama,
            byte_tokenizer,
            TEXT,
            windowing=Windowing(window=1, max_tokens=None, batch_size=1),
        )


def quantized(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """A copy whose weights are rounded, so that it differs a little."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.copy_((weight * 8).round() / 8)
    return other


def read(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    reference: LlamaForCausalLM | None = None,
    **how: int,
) -> TokenLosses:
    return measure_perplexity(
        model, tokenizer, TEXT, windowing=Windowing(**how), reference=reference
    )


@pytest.mark.parametrize(
    ("n", "window", "stride"), [(100, 32, 8), (97, 32, 32), (33, 32, 32), (5, 9, 3)]
)
def test_every_token_with_context_is_scored_once_whatever_the_stride(
    n: int, window: int, stride: int
) -> None:
    scored = [
        token
        for w in cut_windows(range(n), window=window, stride=stride)
        for token in w.ids[-w.new :]
    ]
    without = set(range(0, n, window)) if stride == window else {0}
    assert scored == [token for token in range(n) if token not in without]


def test_a_stride_below_the_window_gives_each_token_its_own_longest_context(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    found = read(random_llama, byte_tokenizer, window=16, stride=1, max_tokens=40, batch_size=4)
    ids = byte_tokenizer(TEXT, return_tensors="pt").input_ids[0, :40]
    expected = []
    for place in range(1, 40):
        context = ids[max(0, place - 15) : place]
        with torch.no_grad():
            logits = random_llama(context[None]).logits[0, -1]
        expected.append(float(cross_entropy(logits, ids[place])))
    assert found.losses == pytest.approx(expected, abs=1e-4)
    assert found.ids == ids[1:].tolist()


def test_a_stride_of_the_window_is_no_stride(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    one, two = (
        read(random_llama, byte_tokenizer, window=32, max_tokens=100, **stride)
        for stride in ({}, {"stride": 32})
    )
    assert one == two


@pytest.mark.parametrize("stride", [0, 33])
def test_a_stride_that_skips_text_or_stands_still_is_refused(
    stride: int, random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ConfigError, match=f"stride is {stride}, and must be from 1 to"):
        read(random_llama, byte_tokenizer, window=32, stride=stride)


def test_divergence_and_top_tokens_equal_scipys_on_the_full_distributions(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    other = quantized(random_llama)
    found = read(
        other, byte_tokenizer, random_llama, window=32, stride=8, max_tokens=50, batch_size=3
    )
    ids = byte_tokenizer(TEXT, return_tensors="pt").input_ids[:, :32]
    with torch.no_grad():
        p, q = (model(ids).logits[0, :-1].double().softmax(-1) for model in (random_llama, other))
    first = found.compared[:31]
    assert [token.kl for token in first] == pytest.approx(stats.entropy(p, q, axis=1), abs=1e-4)
    assert [token.same_top for token in first] == (p.argmax(-1) == q.argmax(-1)).float().tolist()
    assert len(found.compared) == len(found.losses) == 49


def test_a_reference_moves_no_loss_and_is_left_as_it_was(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    other = quantized(random_llama).train()
    alone = read(random_llama, byte_tokenizer, window=30, batch_size=4)
    beside = read(random_llama, byte_tokenizer, other, window=30, batch_size=4)
    assert beside.losses == pytest.approx(alone.losses, abs=1e-5)
    assert other.training


def test_a_model_does_not_diverge_from_itself(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    found = read(random_llama, byte_tokenizer, random_llama, window=32, batch_size=4)
    metrics = {metric.name: metric.value for metric in found.metrics(run_id="r")}
    assert metrics["kl"] == 0.0
    assert metrics["same_top"] == 1.0
