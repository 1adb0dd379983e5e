"""hydra/sweeper=optuna, the real command: trials, their scores, and a search that is killed."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from forking import Forked, fork

pytest.importorskip("optuna", reason="the extra optuna is absent")

pytestmark = pytest.mark.long

TINY = [
    *("model=tiny", "eval.n=1", "eval.tasks=[procedural_mc]", "train.max_steps=2", "data.rows=16"),
    *("lora.r=4", "hydra/sweeper=optuna", "hydra.sweeper.startup=2", "-m"),
]
SPACE = "train.lr=tag(log,interval(1e-4,1e-1))"


def search(folder: Path, *words: str) -> Forked:
    return fork(folder, *TINY, SPACE, *words)


def trials(folder: Path) -> list[tuple[int, dict[str, Any], float | None, str]]:
    """Return what optuna itself reads from the storage."""
    from optuna import load_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(folder / "outputs" / "optuna.jsonl")))
    studies = storage.get_all_studies()
    assert len(studies) < 2
    loaded = [load_study(study_name=study.study_name, storage=storage) for study in studies]
    return [(t.number, t.params, t.value, t.state.name) for study in loaded for t in study.trials]


def at_trial(folder: Path, number: int) -> bool:
    """Whether a search is at work on this trial, or was when it was killed."""
    begun = (folder / "outputs" / "optuna.jsonl").exists()
    return begun and any((n, state) == (number, "RUNNING") for n, *_, state in trials(folder))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Forked:
    run = search(tmp_path_factory.mktemp("searched"), "hydra.sweeper.trials=4")
    assert run.end() == 0, run.output
    return run


def test_each_trial_has_the_score_that_its_run_has_on_the_validation_questions(
    searched: Forked,
) -> None:
    scores = {}
    for path in (searched.folder / "outputs" / "results").glob("*/train.json"):
        (origin,) = path.parent.glob("origin-train.json")
        lr = json.loads(origin.read_text())["config"]["train"]["lr"]
        (metrics,) = path.parent.glob("metrics-*.jsonl")
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        (scores[lr],) = [
            row["value"] for row in rows if (row["task"], row["name"]) == ("procedural_mc", "acc")
        ]
    assert {params["train.lr"]: value for _, params, value, _ in trials(searched.folder)} == scores
    assert len(scores) == 4
    evaluated = [
        json.loads(path.read_text())["config"]["eval"]["seed"]
        for path in (searched.folder / "outputs" / "results").glob("*/origin-*.json")
    ]
    assert set(evaluated) == {9001}


def test_the_best_trials_command_is_scored_on_other_questions(searched: Forked) -> None:
    end = searched.output.partition("4 trials, 0 of them without a score")[2]
    command = next(line for line in end.splitlines() if line.startswith("  python run.py "))
    best = max((value or 0.0, -number) for number, _, value, _ in trials(searched.folder))
    assert f"best: trial {-best[1]}, {best[0]:.3f}" in end
    assert "eval.seed" not in command
    assert "train.lr=" in command


def test_a_killed_search_goes_on_from_its_storage_to_the_trials_of_one_that_was_not(
    searched: Forked, tmp_path: Path
) -> None:
    for running in (1, 2):
        run = search(tmp_path, "hydra.sweeper.trials=4")
        while not at_trial(tmp_path, running):
            time.sleep(0.05)
        assert run.kill_after(0.1)
        assert at_trial(tmp_path, running)  # which the search leaves behind, unscored
    run = search(tmp_path, "hydra.sweeper.trials=4")
    assert run.end() == 0, run.output
    assert trials(tmp_path) == trials(searched.folder)
    again = search(tmp_path, "hydra.sweeper.trials=4")  # and has no more to do
    assert again.end() == 0
    assert "training on" not in again.output
    assert "4 trials, 0 of them without a score" in again.output


def test_a_trial_without_a_score_is_counted_and_not_a_number(tmp_path: Path) -> None:
    run = fork(tmp_path, *TINY, "train.lr=inf,0.01", "hydra.sweeper.trials=3")
    assert run.end() == 1
    scored = trials(tmp_path)
    assert {params["train.lr"]: state for _, params, _, state in scored}["inf"] == "FAIL"
    assert all((value is None) == (state == "FAIL") for *_, value, state in scored)
    assert "of them without a score" in run.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([SPACE, "hydra.sweeper.objective=[mmlu,acc]"], "would choose by the test"),
        ([SPACE, "hydra.sweeper.validation=[]"], "has no eval.seed="),
        (["train.lr=0.01"], "has nothing to search"),
    ],
)
def test_a_search_that_would_choose_by_test_scores_or_has_no_space_is_refused(
    words: list[str], says: str, tmp_path: Path
) -> None:
    run = fork(tmp_path, *TINY, *words)
    assert run.end() == 1
    assert run.output.startswith("error: hydra")
    assert says in run.output
    assert not (tmp_path / "outputs" / "optuna.jsonl").exists()
