import copy
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import lm_eval.api.model
import numpy as np
import pytest
import torch
from lm_eval.utils import hash_string
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from qlora_repro.config.schema import EvalConfig
from qlora_repro.errors import ConfigError
from qlora_repro.eval import lm_eval as harness
from qlora_repro.eval import procedural_tasks

Make = Callable[..., EvalConfig]


@dataclass(frozen=True)
class Riddle:
    task: str
    question: str
    answer: str
    choices: Sequence[str]


@pytest.fixture
def riddles(monkeypatch: pytest.MonkeyPatch) -> list[Riddle]:
    rows = [
        Riddle("letters", f"How many a in {'a' * k}b?", str(k), [str(k), "7", "12"])
        for k in (1, 2, 3)
    ] + [Riddle("days", f"{k} days on?", "Monday", ["Monday", "Tuesday"]) for k in (1, 2, 3)]
    monkeypatch.setattr(
        procedural_tasks, "held_out_questions", lambda tasks, *, per_task, seed: list(rows)
    )
    monkeypatch.setattr(
        procedural_tasks.templates, "render_prompt", lambda template, text: f"{text}\nAnswer:"
    )
    monkeypatch.setattr(
        procedural_tasks.templates, "render_target", lambda template, answer: f" {answer}"
    )
    return rows


@pytest.mark.usefixtures("riddles")
def test_procedural_scores_equal_a_count_over_the_answers(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, eval_config: Make
) -> None:
    metrics, answers = harness.evaluate_tasks(
        random_llama, byte_tokenizer, eval_config(), run_id="r"
    )
    table = {(metric.task, metric.name): metric for metric in metrics}
    assert {task for task, _ in table} == {
        *("procedural_mc", "procedural_mc/letters", "procedural_mc/days"),
        *("procedural_exact", "procedural_exact/letters", "procedural_exact/days"),
    }
    for task, name in (("procedural_mc", "acc"), ("procedural_exact", "exact_match")):
        values = [answer.value for answer in answers if (answer.task, answer.name) == (task, name)]
        metric = table[task, name]
        assert metric.n == len(values) == 6
        assert metric.value == pytest.approx(np.mean(values))
        assert metric.stderr == pytest.approx(np.std(values, ddof=1) / np.sqrt(6))
    assert table["procedural_mc", "chance"].value == pytest.approx((3 * (1 / 3) + 3 / 2) / 6)
    assert table["procedural_mc/days", "acc"].n == 3


def test_the_chosen_answer_is_the_likeliest_by_direct_computation(
    random_llama: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    eval_config: Make,
    riddles: list[Riddle],
) -> None:
    _, answers = harness.evaluate_tasks(
        random_llama, byte_tokenizer, eval_config(tasks=["procedural_mc"]), run_id="r"
    )

    def likelihood(prompt: str, continuation: str) -> float:
        ids = byte_tokenizer(prompt + continuation, return_tensors="pt").input_ids
        with torch.no_grad():
            logp = random_llama(ids).logits[0, :-1].log_softmax(-1)
        tail = len(byte_tokenizer(continuation).input_ids)
        return float(logp.gather(1, ids[0, 1:, None])[-tail:].sum())

    for riddle, answer in zip(riddles, answers, strict=True):
        scores = [likelihood(f"{riddle.question}\nAnswer:", f" {c}") for c in riddle.choices]
        assert answer.value == float(riddle.choices[int(np.argmax(scores))] == riddle.answer)


def test_answers_carry_the_hash_lm_eval_gives_the_document(
    random_llama: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    eval_config: Make,
    riddles: list[Riddle],
) -> None:
    config = eval_config(tasks=["procedural_exact"])
    _, answers = harness.evaluate_tasks(random_llama, byte_tokenizer, config, run_id="r")
    documents = [procedural_tasks.exact_doc(riddle, template="plain") for riddle in riddles]
    hashes = [hash_string(json.dumps(doc, indent=2, ensure_ascii=False)) for doc in documents]
    assert [answer.doc_hash for answer in answers] == hashes


@pytest.mark.usefixtures("riddles")
def test_an_eval_leaves_everything_as_it_found_it(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, eval_config: Make
) -> None:
    model, tokenizer = random_llama.train(), byte_tokenizer
    model.model.layers[0].eval()  # a mixed state, as with a frozen part
    model.model.embed_tokens.weight.requires_grad_(False)
    model.config.use_cache = False
    tokenizer.padding_side, tokenizer.pad_token = "right", None
    ids = torch.arange(40).reshape(2, 20)
    model(ids, labels=ids).loss.backward()

    def state() -> dict[str, Any]:
        return {
            "modes": [module.training for module in model.modules()],
            "trained": [weight.requires_grad for weight in model.parameters()],
            "places": [weight.data_ptr() for weight in model.parameters()],
            "config": copy.deepcopy(model.config.to_dict()),
            "generation": copy.deepcopy(model.generation_config.to_dict()),
            "tokenizer": (tokenizer.padding_side, tokenizer.pad_token, tokenizer.truncation_side),
            "random": (random.getstate(), str(np.random.get_state())),
            "level": logging.getLogger("lm_eval").level,
            "bars": (lm_eval.api.model.tqdm, datasets.are_progress_bars_disabled()),
            "grad": torch.is_grad_enabled(),
        }

    before, rng = state(), torch.get_rng_state()
    gradients = [None if w.grad is None else w.grad.clone() for w in model.parameters()]
    harness.evaluate_tasks(model, tokenizer, eval_config(), run_id="r")
    assert state() == before
    assert torch.equal(torch.get_rng_state(), rng)
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        assert weight.grad is None if gradient is None else torch.equal(weight.grad, gradient)


def test_state_comes_back_when_the_eval_fails(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, eval_config: Make
) -> None:
    random_llama.train()
    rng = torch.get_rng_state()
    with pytest.raises(ConfigError, match=r"eval.n is None"):
        harness.evaluate_tasks(random_llama, byte_tokenizer, eval_config(n=None), run_id="r")
    assert random_llama.training
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.usefixtures("riddles")
def test_nothing_is_drawn_and_progress_is_reported(
    random_llama: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    eval_config: Make,
    capfd: pytest.CaptureFixture[str],
) -> None:
    seen: list[tuple[int, int]] = []
    harness.evaluate_tasks(
        random_llama,
        byte_tokenizer,
        eval_config(),
        run_id="r",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert capfd.readouterr() == ("", "")
    assert (15, 15) in seen  # 3 questions of 3 choices, 3 of 2
    assert seen[-1] == (6, 6)


@pytest.mark.usefixtures("riddles")
def test_the_response_cache_is_never_used(
    random_llama: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    eval_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("lm-eval's response cache was used")

    monkeypatch.setattr(lm_eval.api.model.CachingLM, "__init__", refuse)
    monkeypatch.setattr(lm_eval.api.model.CacheHook, "add_partial", lambda *args: None)
    harness.evaluate_tasks(random_llama, byte_tokenizer, eval_config(), run_id="r")
