"""Verdict files: what is read, what stands for what is left out, what is refused and where."""

from pathlib import Path

import pandas as pd
import pytest

from qlora_repro.config.paths import RELEASED_VERDICTS
from qlora_repro.errors import DataError
from qlora_repro.store.verdicts import (
    COLUMNS,
    load_released_verdicts,
    read_verdicts,
    verdicts_from_scores,
    write_verdicts,
)

HEADER = "judge,question,first,second,verdict"
LINE = "me,q1,a,b,first"


def file_of(folder: Path, *lines: str) -> Path:
    path = folder / "mine.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_least_file_is_read_and_what_it_leaves_out_is_filled_in(tmp_path: Path) -> None:
    frame = read_verdicts(file_of(tmp_path, HEADER, LINE, "", "me,q1,b,a,"))
    assert tuple(frame.columns) == COLUMNS
    first, second = frame.to_dict("records")
    said = {"benchmark": "mine", "protocol": "three_class", "parse": "ok", "verdict": "first"}
    assert {name: first[name] for name in said} == said
    assert first["verdict_lenient"] == "first"
    assert (first["category"], first["answer_first"]) == ("", "")
    assert pd.isna(first["score_first"])
    assert pd.isna(first["chars_second"])
    assert pd.isna(second["verdict"])
    assert second["parse"] == "unparsed"


def test_scores_without_a_verdict_decide_it(tmp_path: Path) -> None:
    header = "judge,question,first,second,score_first,score_second"
    path = file_of(tmp_path, header, "me,1,a,b,9,7.5", "me,2,a,b,8,8", "me,3,a,b,,8")
    frame = read_verdicts(path)
    assert frame["verdict"].fillna("-").tolist() == ["first", "tie", "-"]
    assert set(frame["protocol"]) == {"score10"}
    assert frame["score_second_lenient"].tolist() == [7.5, 8, 8]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "line 1 lacks the column 'judge'"),
        ([HEADER], "has no verdicts"),
        (["judge,question,first,second", "me,1,a,b"], "lacks the column 'verdict'"),
        (["judge,question,first,verdict", "me,1,a,first"], "lacks the column 'second'"),
        ([f"{HEADER},vote", f"{LINE},1"], "has a column 'vote'"),
        ([f"{HEADER},verdict", f"{LINE},first"], "'verdict' twice"),
        ([HEADER, LINE, "me,q2,a,b,won"], "line 3: verdict is 'won'; it may be first, second"),
        ([HEADER, LINE, "", "me,q2,a,a,tie"], "line 4: second is 'a', which is first as well"),
        ([HEADER, "me,,a,b,tie"], "line 2: question is ''"),
        ([HEADER, LINE, LINE], "line 3: judge is 'me', who has judged this match before"),
        ([HEADER, "me,q1,a,b"], "line 2 has 4 cells, its header 5"),
        ([f"{HEADER},score_first", f"{LINE},nine"], "line 2: score_first is 'nine'"),
        ([f"{HEADER},score_first", f"{LINE},inf"], "line 2: score_first is 'inf'"),
        ([f"{HEADER},score_first,score_second", f"{LINE},7,9"], "the scores say otherwise"),
        ([f"{HEADER},protocol", f"{LINE},pairs"], "it may be score10, three_class"),
        ([f"{HEADER},parse", f"{LINE},recovered:"], "it may be ok, hand_filled"),
        ([HEADER, 'me,q1,a,b,"first'], "is no csv in UTF-8"),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_sentence_with_its_line(
    tmp_path: Path, lines: list[str], said: str
) -> None:
    path = file_of(tmp_path, *lines)
    with pytest.raises(DataError) as refused:
        read_verdicts(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_absent_binary_or_no_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a file"):
        read_verdicts(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"judge\xff\xfe")
    with pytest.raises(DataError, match="no csv in UTF-8"):
        read_verdicts(tmp_path / "x.csv")
    (tmp_path / "x.parquet").write_bytes(b"judge")
    with pytest.raises(DataError, match="is no parquet"):
        read_verdicts(tmp_path / "x.parquet")


@pytest.mark.parametrize("name", ["back.csv", "back.parquet"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str) -> None:
    some = load_released_verdicts().groupby(["judge", "benchmark", "protocol", "parse"]).head(20)
    write_verdicts(some, tmp_path / name)
    pd.testing.assert_frame_equal(read_verdicts(tmp_path / name), some.reset_index(drop=True))


def test_the_released_verdicts_are_all_there_in_less_than_a_megabyte() -> None:
    frame = load_released_verdicts()
    assert frame.groupby(["judge", "benchmark", "protocol"]).size().to_dict() == {
        ("gpt-4", "oa", "three_class"): 7 * 6 * 953,
        ("gpt-4", "vicuna", "score10"): 36 * 2 * 80,
        ("gpt-4", "vicuna", "three_class"): 8 * 7 * 80,
        **{(f"human-{k}", "vicuna", "three_class"): 28 * 80 for k in (1, 2, 3)},
    }
    unread = frame[frame["verdict"].isna()].groupby(["benchmark", "protocol"]).size()
    assert unread.to_dict() == {
        ("oa", "three_class"): 1482,
        ("vicuna", "score10"): 60,
        ("vicuna", "three_class"): 13,
    }
    assert RELEASED_VERDICTS.stat().st_size < 1_000_000
    pd.testing.assert_frame_equal(read_verdicts(RELEASED_VERDICTS), frame)


def test_the_released_scores_say_what_the_released_verdicts_say() -> None:
    scored = load_released_verdicts().query("protocol == 'score10'")
    counted = verdicts_from_scores(scored["score_first"], scored["score_second"])
    assert (counted.fillna("") == scored["verdict"].fillna("")).all()


def test_only_matches_of_identical_answers_share_an_id_and_all_of_them_are_ties() -> None:
    frame = load_released_verdicts().query("answer_first == answer_second and answer_first != ''")
    assert len(frame) == 32
    assert set(frame["verdict"]) == {"tie"}


def test_a_missing_released_file_is_told_of_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("qlora_repro.store.verdicts.RELEASED_VERDICTS", tmp_path / "gone.parquet")
    with pytest.raises(DataError, match="import-release"):
        load_released_verdicts()
