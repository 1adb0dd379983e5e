"""Finished stages: what other versions made, and what a second asking takes from the store."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_repro import pipeline
from qlora_repro.config.schema import RunConfig
from qlora_repro.reporting import run_table, stored_result
from qlora_repro.stats.intervals import wilson_interval
from qlora_repro.store.cell import find_cell
from qlora_repro.store.runs import RunFolder, open_store
from qlora_repro.sweep.run_cell import run_cell

Configured = Callable[..., RunConfig]
SMALL = (
    *("model=tiny", "data.rows=16", "train.max_steps=2", "eval.n=1", "lora.r=4"),
    "eval.tasks=[procedural_mc]",
)


@pytest.fixture(scope="module")
def root(configured: Configured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    pipeline.run_stages(configured(*SMALL, f"results_dir={folder}"))
    return folder


def say_older_torch(root: Path) -> None:
    """Let every stage of the store have been made with another torch."""
    for path in root.glob("*/origin-*.json"):
        origin = json.loads(path.read_text())
        origin["packages"]["torch"] = "1.0"
        RunFolder(path.parent, "").write_json(path.name, origin)


def test_a_changed_log_level_device_or_results_folder_is_the_same_cell(
    configured: Configured, root: Path
) -> None:
    plain = find_cell(configured(*SMALL, f"results_dir={root}"), open_store(root))
    assert plain.missing_stages() == []
    words = ("model.device=cpu", "train.log_steps=5", "tracker=wandb", "on_error=stop")
    other = find_cell(configured(*SMALL, *words, f"results_dir={root}/."), open_store(root))
    assert other.missing_stages() == []


def test_a_changed_revision_dataset_or_number_of_questions_is_another_cell(
    configured: Configured, root: Path
) -> None:
    for word, missing in (
        ("model.revision=abc", ["training", "scores before tuning", "scores after tuning"]),
        ("data.revision=abc", ["training", "scores after tuning"]),
        ("eval.n=2", ["scores before tuning", "scores after tuning"]),
    ):
        cell = find_cell(configured(*SMALL, word, f"results_dir={root}"), open_store(root))
        assert cell.missing_stages() == missing


def test_a_scoring_asked_for_by_two_presets_is_one(configured: Configured, root: Path) -> None:
    words = ("eval.name=table4", "train.name=table4", "data.max_truncated=0.5")
    cell = find_cell(configured(*SMALL, *words, f"results_dir={root}"), open_store(root))
    assert cell.missing_stages() == []


def test_what_other_versions_made_is_taken_with_a_word_or_made_again_on_demand(
    configured: Configured, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say_older_torch(root)
    cfg = configured(*SMALL, f"results_dir={root}")
    assert run_cell(cfg, rerun="").state == "in the store"
    said = capsys.readouterr().out
    for stage in ("scores before tuning", "training", "scores after tuning"):
        assert f"note: {stage}: made with torch 1.0, now " in said
    anew = configured(*SMALL, f"results_dir={root}", "rerun=versions")
    assert run_cell(anew, rerun="").state == "done"
    assert "training on 16 rows" in capsys.readouterr().out
    assert run_cell(anew, rerun="").state == "in the store"
    assert "made with" not in capsys.readouterr().out


def test_the_interval_of_an_untuned_score_is_kept_and_not_drawn_again(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untuned = ("stages=[eval]", "lora=none", "train=none", "train.max_steps=0")
    cfg = configured(*SMALL, *untuned, f"results_dir={tmp_path}")
    (made,) = pipeline.run_stages(cfg).lines
    assert made.interval == wilson_interval(round(made.before * made.n), made.n)
    monkeypatch.setattr(run_table, "score_interval", None)  # fails if it is asked
    (kept,) = stored_result.load_result(find_cell(cfg, open_store(tmp_path))).lines
    assert kept == made


def test_origins_hold_command_versions_and_settings_and_no_secret(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    cfg = configured(*SMALL, f"results_dir={tmp_path}", "stages=[train]", "data.rows=8")
    folder = pipeline.run_stages(cfg).folder
    text = (folder / "origin-train.json").read_text()
    origin = json.loads(text)
    assert origin["config"]["data"]["rows"] == 8
    assert origin["packages"]["torch"]
    assert origin["environment"]["OMP_NUM_THREADS"] == "1"
    assert "very-secret" not in "".join(p.read_text() for p in folder.rglob("*.json"))


def test_weights_that_were_cut_off_are_trained_again_to_the_same_bytes(
    configured: Configured, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configured(*SMALL, f"results_dir={root}")
    folder = find_cell(cfg, open_store(root)).folder.path
    weights = folder / "adapter" / "adapter_model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1])
    assert run_cell(cfg, rerun="").state == "done"
    assert f"{folder / 'adapter'} is corrupt: " in capsys.readouterr().out
    assert weights.read_bytes() == before
