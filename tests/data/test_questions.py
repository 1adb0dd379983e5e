from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_repro.config.schema import RunConfig
from qlora_repro.data.procedural import draw_questions, split_of
from qlora_repro.data.questions import (
    benchmark_name,
    draw_procedural_questions,
    load_questions,
    read_questions,
)
from qlora_repro.errors import ConfigError

Configured = Callable[..., RunConfig]


def test_procedural_questions_are_held_out_and_carry_their_answers() -> None:
    found = draw_procedural_questions(40, seed=2)
    known = {q.question: q.answer for q in draw_questions(None, 40, seed=2, split="test")}
    assert {q.text: q.reference for q in found} == known
    assert {split_of(q.text) for q in found} == {"test"}


def test_a_longer_list_begins_with_a_shorter_one_and_ids_tell_texts_apart() -> None:
    short, long, other = (
        draw_procedural_questions(10, seed=2),
        draw_procedural_questions(200, seed=2),
        draw_procedural_questions(200, seed=3),
    )
    assert long[:10] == short
    texts = {q.question_id: q.text for q in long} | {q.question_id: q.text for q in other}
    assert len(texts) == len({q.text for q in [*long, *other]})


def test_procedural_questions_need_a_number(configured: Configured) -> None:
    cfg = configured("generate=procedural", "generate.limit=null")
    with pytest.raises(ConfigError, match=r"generate=procedural needs a number of questions"):
        load_questions(cfg.generate)


def test_a_file_gives_what_a_judge_may_want(configured: Configured, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"question_id": 1, "text": "2+2?", "category": "math", "lang": "en", "reference": 4}\n'
        '{"question_id": 2, "text": "Why?"}\n'
    )
    first, second = read_questions(str(path))
    assert (first.category, first.lang, first.reference) == ("math", "en", "4")
    assert (second.category, second.lang, second.reference) == ("", "", "")
    given = ["generate.limit=1", f"generate.questions={path}"]
    cfg = configured("generate=local", *given).generate
    assert load_questions(cfg) == [first]
    assert benchmark_name(cfg) == "mine"
    assert benchmark_name(configured("generate=vicuna", *given).generate) == "vicuna"
