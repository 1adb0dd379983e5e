import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny_models import make_byte_tokenizer, make_llama
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.generation import TopPLogitsWarper

from qlora_repro.config.schema import GenerateConfig
from qlora_repro.data.questions import Question, read_questions
from qlora_repro.errors import DataError
from qlora_repro.stages.generate import (
    NucleusSampler,
    StopAtTurnMarkers,
    generate_answers,
    mask_outside_nucleus,
)

generate_module = sys.modules["qlora_repro.stages.generate"]  # the package names its function alike
Make = Callable[..., GenerateConfig]
QUESTIONS = [
    Question(question_id=str(k), text=text)
    for k, text in enumerate(["a?", "Something much longer, is it not?", "Hm", "Why? Because."])
]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_byte_tokenizer(pad=False)


@pytest.fixture
def model() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make_llama(
            vocab_size=257,
            hidden_size=32,
            intermediate_size=64,
            bos_token_id=None,
            eos_token_id=0,
            initializer_range=0.3,
        )


@pytest.fixture
def config() -> Make:
    def make(**changed: Any) -> GenerateConfig:
        values: dict[str, Any] = {
            "name": "test",
            "questions": None,
            "template": "none",
            "top_p": 0.9,
            "temperature": 0.7,
            "max_new_tokens": 12,
            "batch_size": 4,
            "limit": None,
            "seed": 0,
            "stop": [],
        }
        return GenerateConfig(**(values | changed))

    return make


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_an_answer_does_not_depend_on_its_batch(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, config: Make, temperature: float
) -> None:
    cfg = config(temperature=temperature)
    together = generate_answers(model, tokenizer, QUESTIONS, cfg, run_id="r", seed=0)
    alone = [
        generate_answers(model, tokenizer, [question], cfg, run_id="r", seed=0)[0]
        for question in reversed(QUESTIONS)
    ]
    assert together == alone[::-1]


def test_greedy_answers_are_the_largest_logits_one_after_the_other(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, config: Make
) -> None:
    found = generate_answers(
        model, tokenizer, QUESTIONS, config(temperature=0.0), run_id="r", seed=0
    )
    model.eval()
    for question, answer in zip(QUESTIONS, found, strict=True):
        ids = tokenizer(question.text)["input_ids"]
        start = len(ids)
        for _ in range(12):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 0:
                break
        assert answer.answer == tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def test_the_random_state_found_changes_nothing_and_stays(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, config: Make
) -> None:
    model.train()
    before = tokenizer.backend_tokenizer.to_str()
    torch.manual_seed(5)
    first = generate_answers(model, tokenizer, QUESTIONS, config(), run_id="r", seed=0)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    assert generate_answers(model, tokenizer, QUESTIONS, config(), run_id="r", seed=0) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("right", None)
    assert tokenizer.backend_tokenizer.to_str() == before  # which is saved with an adapter
    assert generate_answers(model, tokenizer, QUESTIONS, config(), run_id="r", seed=1) != first


def test_the_nucleus_equals_that_of_transformers() -> None:
    scores = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 3
    theirs = TopPLogitsWarper(top_p=0.9)(torch.empty(0), scores).isinf()
    assert torch.equal(mask_outside_nucleus(scores, p=0.9).isinf(), theirs)


def test_samples_have_the_probabilities_of_the_nucleus() -> None:
    scores = torch.tensor([[2.0, 1.5, 1.0, 0.0, -4.0]])
    sampler = NucleusSampler([3], p=0.9, temperature=0.7)
    drawn = [int(sampler(torch.empty(0), scores).argmax()) for _ in range(4000)]
    kept = mask_outside_nucleus(scores / 0.7, p=0.9).exp()[0]
    expected = np.array((kept / kept.sum()).tolist())
    counts = np.bincount(drawn, minlength=5)
    inside = expected > 0
    assert counts[~inside].sum() == 0
    assert chisquare(counts[inside], 4000 * expected[inside] / expected[inside].sum()).pvalue > 0.01


def scripted(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """Make the model write `text` and an end of sequence, whatever it is asked."""
    ids = [*tokenizer(text)["input_ids"], 0]

    def forward(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        scripted_step = forward.step  # type: ignore[attr-defined]
        forward.step += 1  # type: ignore[attr-defined]
        logits = torch.zeros(len(input_ids), 1, 257)
        logits[..., ids[min(scripted_step, len(ids) - 1)]] = 1.0
        return type(model_output)(logits=logits)

    forward.step = 0  # type: ignore[attr-defined]
    model_output = model(torch.tensor([[1]]))
    model.forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize("every", [1, 5], ids=["each token", "now and then, as on a GPU"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", ("yes", 3, "eos")),
        ("yes ### Human: no", ("yes", 14, "stop")),
        ("a longer answer than fits", ("a longer answer th", 18, "length")),
    ],
)
def test_an_answer_ends_at_eos_at_a_turn_marker_or_when_it_is_long(  # noqa: PLR0913
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    config: Make,
    text: str,
    expected: tuple[str, int, str],
    every: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = partial(StopAtTurnMarkers, every=every)
    monkeypatch.setattr(
        generate_module,
        "StopAtTurnMarkers",
        lambda *given, **named: looks(*given, start=named["start"]),
    )
    scripted(model, tokenizer, text)
    cfg = config(temperature=0.0, template="guanaco", max_new_tokens=18)
    (found,) = generate_answers(model, tokenizer, QUESTIONS[:1], cfg, run_id="r", seed=0)
    assert (found.answer, found.n_tokens, found.finish) == expected


def test_a_row_that_has_stopped_waits_for_the_others(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, config: Make
) -> None:
    greedy = config(temperature=0.0)
    first = generate_answers(model, tokenizer, QUESTIONS, greedy, run_id="r", seed=0)
    marker = next(row.answer[1:3] for row in first if len(row.answer) > 4)
    cut = config(temperature=0.0, stop=[marker])
    for plain, short in zip(
        first, generate_answers(model, tokenizer, QUESTIONS, cut, run_id="r", seed=0), strict=True
    ):
        assert short.answer == plain.answer.split(marker)[0].strip()
        assert (short.finish == "stop") == (marker in plain.answer)


def test_a_limit_keeps_the_first_questions(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, config: Make
) -> None:
    found = generate_answers(model, tokenizer, QUESTIONS, config(limit=2), run_id="r", seed=0)
    assert [row.question_id for row in found] == ["0", "1"]


def test_long_questions_have_the_room_that_is_left_and_change_no_other_answer(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, config: Make
) -> None:
    cfg = config(temperature=0.0, max_new_tokens=140)  # of 256 tokens
    long = [
        Question(question_id="fits", text="x" * 116),
        Question(question_id="less", text="x" * 120),
        Question(question_id="cut", text="y" * 100 + "x" * 120),
    ]
    rows = generate_answers(model, tokenizer, [*QUESTIONS, *long], cfg, run_id="r", seed=0)
    assert rows[:4] == generate_answers(model, tokenizer, QUESTIONS, cfg, run_id="r", seed=0)
    assert [(row.room, row.cut) for row in rows[4:]] == [(None, None), (136, None), (128, 92)]
    assert all(row.n_tokens <= (row.room or 140) for row in rows)
    assert rows[6].question == long[2].text  # on record as it was asked
    end = [Question(question_id="end", text=long[2].text[92:])]
    shortened = config(temperature=0.0, max_new_tokens=128)
    (alone,) = generate_answers(model, tokenizer, end, shortened, run_id="r", seed=0)
    assert rows[6].answer == alone.answer


def test_a_question_that_does_not_fit_at_all_is_named(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, config: Make, tmp_path: Path
) -> None:
    path = tmp_path / "long.json"
    path.write_text(json.dumps({"prompt": "x" * 250 + "{source}", "lead": "", "stop": []}))
    with pytest.raises(DataError, match=r"question 0 cannot be asked: .* the 244 tokens"):
        generate_answers(
            model, tokenizer, QUESTIONS, config(template=str(path)), run_id="r", seed=0
        )


def test_a_question_file_may_call_its_text_by_three_names(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question_id": k, key: f"Q{k}"} for k, key in enumerate(("text", "question", "prompt"))
    ]
    rows.append({"question_id": "oa", "text": "### Human: Hello ### Assistant:"})
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    found = [(question.question_id, question.text) for question in read_questions(str(path))]
    assert found == [("0", "Q0"), ("1", "Q1"), ("2", "Q2"), ("oa", "Hello")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question_id": 1, "text": "a"}\n{"question_id": 2}', "line 2 has no text"),
        ('{"text": "a"}', "line 1 has no question_id"),
        ('{"question_id": 1, "text": " "}', "line 1 has no text"),
        ('{"question_id": 1', "line 1 is not JSON"),
        ("[1]", "line 1 has no question_id"),
        ("\n", "holds no question"),
        ('{"question_id": 1, "text": "a"}\n{"question_id": "1", "text": "b"}', "more than once"),
    ],
)
def test_a_bad_question_file_is_refused_with_its_line(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_questions(str(path))


def test_a_missing_question_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_questions(str(tmp_path / "none.jsonl"))
