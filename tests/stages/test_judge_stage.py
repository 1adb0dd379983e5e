"""Train, answer, judge: whole runs of the tiny model, offline, and what the store keeps of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_repro import pipeline
from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.judge.other_judges import compare_with_reference
from qlora_repro.judge.win_rates import SWAPPED_VERDICT
from qlora_repro.records import Generation, Judgment
from qlora_repro.reporting.run_table import CellResult
from qlora_repro.store.runs import RunFolder

pytestmark = pytest.mark.long

Configured = Callable[..., RunConfig]
SMALL = ("model=tiny", "data.rows=16", "train.max_steps=2", "lora.r=4", "judge=reference")
ASKED = ("generate=procedural", "generate.limit=8", "generate.max_new_tokens=4")


def start(configured: Configured, root: Path, *words: str) -> CellResult:
    return pipeline.run_stages(configured(*SMALL, *words, f"results_dir={root}"))


@pytest.fixture(scope="module")
def root(configured: Configured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained runs that answered eight questions, the first of them judged against its base."""
    folder = tmp_path_factory.mktemp("results")
    start(configured, folder, *ASKED, "stages=[train,generate,judge]")
    start(configured, folder, *ASKED, "stages=[train,generate]", "seed=1")
    return folder


def folder_of(root: Path, mark: str) -> RunFolder:
    (path,) = (path for path in root.glob(f"tiny-*{mark}*") if path.is_dir())
    return RunFolder(path, path.name[-12:])


def judgments(folder: RunFolder) -> list[list[Judgment]]:
    return [
        folder.read_records(p.name, Judgment) for p in sorted(folder.path.glob("judgments-*.jsonl"))
    ]


def answers(folder: RunFolder) -> dict[str, Generation]:
    (path,) = folder.path.glob("generations-*.jsonl")
    return {row.question_id: row for row in folder.read_records(path.name, Generation)}


def test_a_trained_run_is_judged_against_its_base_on_questions_that_both_answered(
    root: Path,
) -> None:
    run, base = folder_of(root, "-s0-"), folder_of(root, "-untuned-")
    (rows,) = judgments(run)
    assert len(rows) == 2 * 8
    assert {row.benchmark for row in rows} == {"procedural"}
    sides = {(row.run_first, row.run_second) for row in rows}
    assert sides == {(run.run_id, base.run_id), (base.run_id, run.run_id)}
    texts = {run.run_id: answers(run), base.run_id: answers(base)}
    for row in rows:
        one, other = texts[row.run_first][row.question], texts[row.run_second][row.question]
        assert one.question == other.question
        assert row.verdict == compare_with_reference(
            one.answer, other.answer, one.reference, margin=0.05
        )
    found = {(row.question, row.first): row.verdict for row in rows}
    for row in rows:
        assert found[row.question, row.second] == SWAPPED_VERDICT[str(row.verdict)]


def test_two_runs_are_compared_by_their_ids(
    root: Path, configured: Configured, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = folder_of(root, "-s0-"), folder_of(root, "-s1-")
    words = ["stages=[judge]", f"judge.run={two.path.name}", f"judge.opponent='{one.run_id}'"]
    result = start(configured, root, *words)
    (found,) = result.win_rates
    assert (found.system, found.opponent, found.n_verdicts) == (two.path.name, one.path.name, 16)
    assert "not GPT-4" in capsys.readouterr().out
    assert start(configured, root, *words).win_rates == result.win_rates
    assert "judging" not in capsys.readouterr().out
    assert len(judgments(two)) == 1


def test_other_settings_of_a_judge_are_other_verdicts(root: Path, configured: Configured) -> None:
    two = folder_of(root, "-s1-")
    before = len(judgments(two))
    words = ["stages=[judge]", "seed=1", *ASKED, "judge.margin=1"]
    (found,) = start(configured, root, *words).win_rates
    assert (found.ties, found.n_verdicts) == (16, 16)
    assert len(judgments(two)) == before + 1


def test_a_file_of_answers_is_an_opponent(
    root: Path, configured: Configured, tmp_path: Path
) -> None:
    two = folder_of(root, "-s1-")
    right = [
        {"question_id": row.question_id, "answer": row.reference} for row in answers(two).values()
    ]
    path = tmp_path / "oracle.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in right[:6]))
    words = ["stages=[judge]", f"judge.run={two.path.name}", f"judge.opponent={path}"]
    (found,) = start(configured, root, *words).win_rates
    assert found.opponent == "oracle"
    assert (found.wins, found.n_verdicts, found.unanswered) == (0, 12, 2)
    assert found.losses > 6


def test_a_judge_that_lacks_something_is_refused_before_anything_runs(
    root: Path, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, says in {
        ("stages=[judge]", "judge=none"): "judge=none judges nothing",
        ("stages=[judge]", "judge=human"): "judge.votes names none",
    }.items():
        with pytest.raises(ConfigError, match=says):
            configured(*SMALL[:-1], *words)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set"):
        start(
            configured,
            root,
            *ASKED,
            "stages=[train,generate,judge]",
            "judge=gpt4_pairwise",
            "seed=5",
        )
    assert not list(root.glob("*-s5-*"))
    with pytest.raises(ConfigError, match="judge=replay knows the systems of the paper"):
        start(configured, root, "stages=[judge]", "judge=replay")
    with pytest.raises(ConfigError, match="this run is untuned itself"):
        start(configured, root, "stages=[generate,judge]", "train.max_steps=0", *ASKED)
    with pytest.raises(ConfigError, match="has not been trained; add train to stages"):
        start(configured, root, "stages=[generate,judge]", "seed=9", *ASKED)
