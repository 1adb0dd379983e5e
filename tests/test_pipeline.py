"""Whole runs of the tiny model, in process: what the store holds afterwards, and what is shared."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qlora_repro import pipeline
from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError, QloraError, RunError
from qlora_repro.eval.lm_eval import evaluate_tasks
from qlora_repro.records import Answer, Generation, Metric
from qlora_repro.reporting.run_table import CellResult
from qlora_repro.store.run_id import stage_digest
from qlora_repro.store.runs import RunFolder
from qlora_repro.train.trainer import Step

Configured = Callable[..., RunConfig]
SMALL = (
    "model=tiny",
    "data.rows=16",
    "train.max_steps=3",
    "eval.n=1",
    "eval.tasks=[procedural_mc]",
    "lora.r=4",
    "train.lr=0.05",
)
ADAPTER = "adapter/adapter_model.safetensors"


@dataclass
class Done:
    """A finished run."""

    cfg: RunConfig
    result: CellResult
    root: Path

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.result.folder, self.result.folder.name.rpartition("-")[2])

    @property
    def base(self) -> RunFolder:
        (found,) = self.root.glob("*-untuned-*")
        return RunFolder(found, found.name.rpartition("-")[2])

    def lines(self, kind: str, record: type) -> list[Any]:
        (found,) = self.folder.path.glob(f"{kind}-*.jsonl")
        return self.folder.read_records(found.name, record)


def start(
    configured: Configured, root: Path, *overrides: str, small: Sequence[str] = SMALL
) -> Done:
    cfg = configured(*small, f"results_dir={root}", *overrides)
    return Done(cfg, pipeline.run_stages(cfg), root)


@pytest.fixture(scope="module")
def done(configured: Configured, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return start(configured, tmp_path_factory.mktemp("results"))


def test_records_carry_the_id_of_the_weights_that_were_scored(done: Done) -> None:
    assert done.folder.run_id == stage_digest(done.cfg, "train")
    assert done.base.run_id == stage_digest(done.cfg, "untuned")
    for kind, record in (("metrics", Metric), ("answers", Answer)):
        assert {row.run_id for row in done.lines(kind, record)} == {done.folder.run_id}
    before, after = done.result.before, done.result.after
    assert before is not None
    assert after is not None
    assert {row.run_id for row in before.answers} == {done.base.run_id}
    assert after.answers == done.lines("answers", Answer)


def test_a_metric_is_the_mean_of_its_answers(done: Done) -> None:
    answers = done.lines("answers", Answer)
    scored = [m for m in done.lines("metrics", Metric) if m.name == "acc" and "/" not in m.task]
    assert scored
    for metric in scored:
        values = [a.value for a in answers if (a.task, a.name) == (metric.task, metric.name)]
        assert metric.n == len(values) == 8
        assert metric.value == pytest.approx(sum(values) / len(values))


def test_both_evaluations_ask_the_same_questions(done: Done) -> None:
    before, after = done.result.before, done.result.after
    assert before is not None
    assert after is not None
    assert [a.doc_hash for a in before.answers] == [a.doc_hash for a in after.answers]


def test_loss_curve_manifest_and_training_record_tell_the_same_story(done: Done) -> None:
    steps = done.folder.read_records("steps.jsonl", Step)
    training = done.folder.read_json("train.json")
    manifest = done.folder.read_json("manifest.json")
    assert [step.step for step in steps] == [1, 2, 3]
    assert training["steps"] == json.loads(json.dumps([vars(step) for step in steps]))
    assert manifest["training"]["steps"] == 3
    assert manifest["training"]["last_loss"] == steps[-1].loss
    assert manifest["training"]["tokens"] == training["tokens"]
    assert manifest["run_id"] == done.folder.run_id
    assert done.result.manifest.to_json() == manifest
    assert done.result.training == training


def test_nothing_is_left_over_after_a_finished_run(done: Done) -> None:
    assert not (done.folder.path / "checkpoints").exists()
    assert not list(done.root.rglob("*.part"))


def test_a_finished_run_is_read_from_the_store_and_loads_no_model(
    done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qlora_repro.session.load_base", None)
    assert pipeline.run_stages(done.cfg) == done.result
    assert capsys.readouterr().out.count("in the store, skipped") == 3


def test_runs_that_differ_in_seed_share_the_scores_of_the_base(
    done: Done, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []

    def counting(*args: Any, run_id: str, **kwargs: Any) -> Any:
        scored.append(run_id)
        return evaluate_tasks(*args, run_id=run_id, **kwargs)

    monkeypatch.setattr("qlora_repro.eval.evaluate.evaluate_tasks", counting)
    other = start(configured, done.root, "seed=1")
    assert scored == [other.folder.run_id]
    assert other.folder.run_id != done.folder.run_id
    assert other.result.before == done.result.before
    assert adapter(other) != adapter(done)


def adapter(run: Done) -> bytes:
    return (run.folder.path / ADAPTER).read_bytes()


def test_same_seed_gives_the_same_adapter_whether_or_not_the_base_was_scored_first(
    done: Done, configured: Configured, tmp_path: Path
) -> None:
    again = start(configured, tmp_path, "stages=[train]")
    assert adapter(again) == adapter(done)
    assert again.folder.read_records("steps.jsonl", Step) == done.folder.read_records(
        "steps.jsonl", Step
    )
    assert again.result.before is None


@pytest.mark.parametrize("how", [[], ["lora=none", "dtype=bf16", "dq=false"]], ids=["lora", "full"])
def test_weights_read_back_from_the_store_score_as_the_live_ones_did(
    how: list[str], configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = ["data.holdout=4", "eval.tasks=[]", "eval.perplexity_file=" + str(tmp_path / "text")]
    (tmp_path / "text").write_text("If all birds are animals, then no birds are stones. " * 5)
    small = [word for word in SMALL if not word.startswith(("eval.", "lora.r"))]
    live = start(configured, tmp_path, *how, *held, small=small)
    assert capsys.readouterr().err == ""  # no bar for each checkpoint that is written
    for path in live.folder.path.glob("*-*.jsonl"):
        path.unlink()
    read_back = start(configured, tmp_path, *how, *held, "stages=[eval]", small=small)
    assert live.result.after is not None
    assert live.result.after.metrics
    assert read_back.result.after == live.result.after


def test_scores_after_training_need_a_trained_run(configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has not been trained; add train to stages"):
        start(configured, tmp_path, "stages=[eval]")


def test_questions_are_answered_once(
    done: Done, configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        '{"question_id": "a", "text": "2 + 2?"}\n{"question_id": 7, "text": "Why?"}'
    )
    asked = ["stages=[generate]", "generate=local", f"generate.questions={questions}"]
    run = start(configured, done.root, *asked, "generate.max_new_tokens=4")
    answers = run.lines("generations", Generation)
    assert [answer.question_id for answer in answers] == ["a", "7"]
    assert {answer.run_id for answer in answers} == {done.folder.run_id}
    capsys.readouterr()
    start(configured, done.root, *asked, "generate.max_new_tokens=4")
    assert "answers: in the store, skipped" in capsys.readouterr().out


def lines_of(folder: Path, *texts: str) -> str:
    """Write a file of questions; return what names it on the command line."""
    path = folder / "questions.jsonl"
    rows = [{"question_id": number, "text": text} for number, text in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return f"generate.questions={path}"


def test_questions_too_long_for_whole_answers_are_counted_before_training_and_answered(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = lines_of(tmp_path, "2 + 2?", "What of it? " * 2000)
    stages = ("stages=[train,generate]", "generate=local", file, "generate.max_new_tokens=8")
    run = start(configured, tmp_path / "results", *stages)
    out = capsys.readouterr().out
    shown = "note: 1 of 2 prompts leave less than generate.max_new_tokens=8 of the model's"
    assert 0 < out.index(shown) < out.index("training on")
    assert "; 1 of 2 after a prompt too long for a whole one" in out
    short, long = run.lines("generations", Generation)
    assert (short.cut, short.room) == (None, None)
    assert long.cut > 10_000


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ({"prompt": "word " * 5000 + "{source}", "lead": "", "stop": []}, "question 0 cannot be"),
        ({"prompt": "{question}", "lead": "", "stop": []}, "has the place {question} in prompt"),
    ],
)
def test_answers_that_cannot_be_are_refused_before_training(
    template: dict[str, Any], says: str, configured: Configured, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(template))
    stages = ("stages=[train,generate]", "generate=local", f"generate.template={path}")
    with pytest.raises(QloraError, match=says):
        start(configured, tmp_path / "results", *stages, lines_of(tmp_path, "2 + 2?"))
    assert not list(tmp_path.rglob("train.json"))


def test_a_loss_that_is_not_a_number_leaves_no_result(
    configured: Configured, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="the loss is nan at step 2"):
        start(configured, tmp_path, "stages=[train]", "train.lr=inf")
    assert not list(tmp_path.rglob("train.json"))
    assert not list(tmp_path.rglob("adapter*"))
