"""Systems found by name, and what a judge is shown of them."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qlora_repro.data.questions import Question
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.judge.matches import (
    System,
    build_matchup,
    find_system,
    load_file_system,
    load_run_system,
)
from qlora_repro.records import Generation
from qlora_repro.store.runs import RunFolder

ONE, TWO = "tiny-nf4-s0-00000000000a", "tiny-nf4-s1-00000000000b"


def system(
    name: str, answers: Mapping[str, str], *, texts: Mapping[str, str] | None = None
) -> System:
    asked = {k: Question(question_id=k, text=(texts or {}).get(k, f"{k}?")) for k in answers}
    return System(name=name, run="", answers=answers, questions=asked, benchmark="mine")


def stored(root: Path, name: str, answers: Mapping[str, str], *, limit: int = 9) -> RunFolder:
    folder = RunFolder(root / name, name[-12:])
    rows = [
        Generation(
            run_id=folder.run_id,
            question_id=key,
            question=f"{key}?",
            answer=answer,
            n_tokens=1,
            finish="eos",
            seed=0,
            benchmark="mine",
            reference="4",
        )
        for key, answer in answers.items()
    ]
    folder.write_json(f"settings-{limit:012d}.json", {"generate": {"limit": limit}})
    folder.write_records(f"generations-{limit:012d}.jsonl", rows)
    return folder


def test_every_shared_question_is_shown_in_both_orders() -> None:
    found = build_matchup(
        system("a", {"1": "x", "2": "y"}), system("b", {"2": "y", "3": "z"}), both_orders=True
    )
    shown = [(m.question_id, m.first, m.answer_first, m.second) for m in found.matches]
    assert shown == [("2", "a", "y", "b"), ("2", "b", "y", "a")]
    assert (found.n_questions, found.unanswered, found.identical) == (1, 2, 1)


def test_equal_ids_with_other_texts_are_other_questions() -> None:
    one, two = (
        system("a", {"1": "x", "2": "y"}),
        system("b", {"1": "x", "2": "y"}, texts={"1": "!"}),
    )
    assert {m.question_id for m in build_matchup(one, two, both_orders=True).matches} == {"2"}


def test_files_of_answers_take_the_questions_from_outside() -> None:
    bare = [
        System(name=name, run="", answers={"1": name}, questions={}, benchmark="")
        for name in ("a", "b")
    ]
    with pytest.raises(DataError, match=r"neither of a and b says what was asked; add generate="):
        build_matchup(bare[0], bare[1], both_orders=True)
    asked = [Question(question_id="1", text="Why?", reference="so")]
    (match,) = build_matchup(bare[0], bare[1], both_orders=False, questions=asked).matches
    assert (match.question, match.reference) == ("Why?", "so")


def test_systems_without_a_question_in_common_and_a_system_against_itself_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"a and b answered no question in common \(1 and 1 answers"
    ):
        build_matchup(system("a", {"1": "x"}), system("b", {"2": "x"}), both_orders=True)
    with pytest.raises(ConfigError, match="a is judged against itself"):
        build_matchup(system("a", {"1": "x"}), system("a", {"1": "x"}), both_orders=True)


@pytest.mark.parametrize("name", [ONE, ONE[-12:]])
def test_a_run_is_found_by_its_folder_and_by_its_id(name: str, tmp_path: Path) -> None:
    stored(tmp_path, ONE, {"1": "x"})
    found = find_system(tmp_path, name, key="judge.run")
    assert (found.name, found.run, found.answers) == (ONE, ONE[-12:], {"1": "x"})
    assert found.questions["1"] == Question(question_id="1", text="1?", reference="4")


@pytest.mark.parametrize("name", ["00000000000c", "tiny-nf4-s0"])
def test_an_unknown_run_is_refused_with_the_nearest(name: str, tmp_path: Path) -> None:
    stored(tmp_path, ONE, {"1": "x"})
    with pytest.raises(ConfigError, match=rf"judge.run={name} is neither .* did you mean {ONE}\?"):
        find_system(tmp_path, name, key="judge.run")


@pytest.mark.parametrize("text", ["30e123456789", "1e0000000001", "012345670123"])
def test_an_id_that_yaml_took_for_a_number_is_said_to_need_quotes(
    text: str, tmp_path: Path
) -> None:
    stored(tmp_path, f"tiny-{text}", {"1": "x"})
    read = str(OmegaConf.create(f"run: {text}").run)
    assert read != text
    with pytest.raises(ConfigError, match=r"has to stand in quotes, as in run: '30e123456789'"):
        find_system(tmp_path, read, key="judge.run")
    quoted = OmegaConf.create(f"run: '{text}'").run
    assert find_system(tmp_path, quoted, key="judge.run").run == text


def test_of_several_answers_those_under_the_settings_asked_for_are_taken(tmp_path: Path) -> None:
    folder = stored(tmp_path, ONE, {"1": "few"}, limit=3)
    assert load_run_system(folder, settings={"limit": 5}).answers == {"1": "few"}
    stored(tmp_path, ONE, {"1": "many"}, limit=9)
    assert load_run_system(folder, settings={"limit": 9}).answers == {"1": "many"}
    with pytest.raises(DataError, match="has answers under 2 settings of generate"):
        load_run_system(folder, settings={"limit": 5})
    with pytest.raises(DataError, match=r"has no answers; .*stages=\[generate\]"):
        load_run_system(RunFolder(tmp_path / TWO, TWO[-12:]))


def test_answer_files_of_three_forms_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.jsonl"
    rows = [
        {"question_id": 1, "answer": "a"},
        {
            "question_id": "2",
            "text": "the question",
            "generation_truncated": "b",
            "generation": "bb",
        },
        {"message_id": "3", "output": "the human's", "generation": "c"},
        {"question_id": 4, "answer_id": "x", "text": "d"},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = load_file_system(path)
    assert found.name == "model"
    assert found.answers == {"1": "a", "2": "b", "3": "c", "4": "d"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1 is not JSON"),
        ('{"answer": "x"}', "line 1 has no question_id"),
        ('{"question_id": 1}', "line 1 has no answer"),
        ('{"question_id": 1, "answer": "x"}\n' * 2, "line 2 answers '1' a second time"),
        ("", "holds no answer"),
    ],
)
def test_a_file_that_holds_no_answers_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "model.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        load_file_system(path)
