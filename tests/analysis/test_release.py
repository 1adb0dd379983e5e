"""Importing the authors' files: which answer was shown first, and that it gives what is shipped."""

import json
from pathlib import Path
from typing import Any

import pytest
from release_folder import RELEASE

from analysis.__main__ import main
from analysis.release import (
    add_human_votes,
    count_differences,
    import_release,
    infer_order,
    parse_file_name,
    parse_system,
    read_review,
)
from qlora_repro.errors import DataError
from qlora_repro.store.verdicts import load_released_verdicts

ROOT = Path(__file__).resolve().parents[2]
RAW = RELEASE / "raw"
FOLDER = "eval/ratings-gpt4/vicuna/relative-gpt-3.5"


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def review(question: int, first: str, second: str, text: str, score: list[float]) -> dict[str, Any]:
    ids = {"answer1_id": first, "answer2_id": second, "reviewer_id": 1}
    return {"question_id": question, **ids, "text": text, "score": score}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two files of scores, the first of which is named in the wrong order."""
    root = tmp_path / "qlora"
    flan = "7b-flan-vicuna-generations-topp0.9-temp0.7"
    questions = [{"question_id": k, "category": "math"} for k in (1, 2)]
    write(root / "eval/prompts/vicuna_questions.jsonl", questions)
    write(root / "eval/prompts/oa_questions.jsonl", [])
    answers = [{"answer_id": f"c{k}", "text": "long answer"} for k in (1, 2)]
    write(root / "eval/generations/vicuna/answer_gpt35.jsonl", answers)
    own = [{"answer_id": f"f{k}", "generation_truncated": "short"} for k in (1, 2)]
    write(root / f"eval/generations/vicuna/{flan}.jsonl", own)
    write(root / "eval/generations/vicuna/notes.jsonl", [{}])
    shown_first = [review(1, "f1", "c1", "7 9\nThe", [7, 9]), review(2, "f2", "c2", "?", [-1, -1])]
    write(root / FOLDER / f"gpt-3.5-vs-{flan}-gpt4-reviewer.jsonl", shown_first)
    told_by_one = [review(1, "c1", "x1", "8 8\nThe", [8, 8]), review(2, "c2", "x2", "8/10", [8, 6])]
    write(
        root / FOLDER / f"gpt-3.5-vs-{flan.replace('7b', '65b')}-gpt4-reviewer.jsonl", told_by_one
    )
    return root


def test_the_order_is_that_of_the_answer_ids_and_not_of_the_name(checkout: Path) -> None:
    found = import_release(checkout)
    frame = found.verdicts.set_index(["first", "question"])
    assert found.misnamed == [
        "gpt-3.5-vs-7b-flan-vicuna-generations-topp0.9-temp0.7-gpt4-reviewer.jsonl"
    ]
    row = frame.loc[("flan-7b", "1")]
    assert (row["second"], row["verdict"], row["category"]) == ("chatgpt-3.5", "second", "math")
    assert (row["chars_first"], row["chars_second"]) == (len("short"), len("long answer"))
    assert frame.loc[("flan-7b", "2"), "parse"] == "unparsed"
    assert frame.loc[("chatgpt-3.5", "2"), "parse"] == "hand_filled"
    assert frame.loc[("chatgpt-3.5", "1"), "second"] == "flan-65b"
    assert (found.files, found.unsure, found.unknown) == (2, [], ["notes.jsonl"])


def test_the_command_lists_misnamed_files_and_keeps_the_human_votes(
    checkout: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["import-release", str(checkout), "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "4 verdicts of GPT-4 from 2 files" in said
    assert "1 files named in the order that was not shown: gpt-3.5-vs-7b-flan" in said
    assert (tmp_path / "out" / "released_verdicts.parquet").exists()
    whole = add_human_votes(import_release(checkout).verdicts, load_released_verdicts())
    assert len(whole) == 4 + 6_720


def test_ids_that_tell_nothing_leave_the_order_open() -> None:
    reviews = [review(1, "x", "y", "", [1, 1]), review(2, "both", "both", "", [1, 1])]
    assert infer_order(reviews, ("a", "b"), {"a": {"both"}, "b": {"both"}}) is None
    assert infer_order(reviews, ("a", "b"), {"b": {"x"}}) == ("b", "a")


def test_names_of_the_release_become_names_of_the_paper() -> None:
    name = "30b-unnatural-instructions-vicuna-generations-topp0.9-temp0.7"
    assert parse_system(name) == "unnatural-instructions-33b"
    both = parse_file_name("vicuna-13b-oa-generations-vs-answer-gpt4-gpt-4-reviewer-threeclass")
    assert both == ("vicuna-13b", "gpt-4")
    with pytest.raises(DataError, match="'claude' is no system of the release"):
        parse_system("claude")


@pytest.mark.parametrize(
    ("protocol", "text", "score", "parse", "verdict", "lenient"),
    [
        ("three_class", "Good.\n2", 2, "ok", "second", "second"),
        ("three_class", "Best answer: 2", -1, "recovered:label_colon_number", None, "second"),
        ("three_class", "Best answer: 2", 1, "hand_filled", "first", "first"),
        ("three_class", "error", -1, "api_error", None, None),
        ("three_class", "I cannot choose between the two.", -1, "refused", None, None),
        ("score10", "9 8\nThe", [9, 8], "ok", "first", "first"),
        ("score10", "So it is.\n\n(1, 10)", [1, 10], "hand_filled", "second", "second"),
        ("score10", "So it is.\n\n(1, 10)", [-1, -1], "recovered:tuple", None, "second"),
        ("score10", "So it is.", [-1, -1], "unparsed", None, None),
    ],
)
def test_a_review_is_read_as_published_strictly_and_leniently(
    protocol: str, text: str, score: Any, parse: str, verdict: str | None, lenient: str | None
) -> None:
    found = read_review({"text": text, "score": score}, protocol)
    assert (found["parse"], found["verdict"]) == (parse, verdict)
    assert found["verdict_lenient"] == lenient


def test_a_folder_that_is_no_checkout_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="name a checkout of artidoro/qlora"):
        import_release(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["import-release"])
    assert "required: checkout" in capsys.readouterr().err


@pytest.mark.skipif(not RAW.is_dir(), reason=f"no copies of the authors' files in {RAW}")
def test_the_authors_files_at_hand_give_the_rows_that_are_shipped() -> None:
    found = import_release(RAW)
    assert found.files == 9
    assert len(found.verdicts) == 5 * 80 + 2 * 80 + 2 * 953
    assert count_differences(found.verdicts, load_released_verdicts()) == (len(found.verdicts), 0)
    assert len(found.misnamed) == 3
    assert all("gpt-3.5" in name and "gpt4-vs" not in name for name in found.misnamed)
