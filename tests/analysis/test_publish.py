"""Published runs: small, and worth as much in every statistic as the runs themselves."""

import json
from pathlib import Path

import numpy as np
import pytest
import stored

from analysis.__main__ import main
from analysis.findings.runs import load
from analysis.tables import table2_perplexity_by_dtype as table2
from qlora_repro.store.runs import read_answers, read_document
from qlora_repro.sweep.replay import compare

LOSSES = np.random.default_rng(0).normal(3, 1, size=157)  # the last of its blocks of 8 is short


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    root.mkdir()
    noise = np.random.default_rng(1).normal(0.1, 0.05, size=len(LOSSES))
    for dtype, losses in {
        "bf16": LOSSES,
        "nf4": LOSSES + noise,
        "int4": LOSSES + 3 * noise,
    }.items():
        stored.write_losses(stored.make_run(root, dtype), list(losses), kl=list(noise))
    return root


@pytest.fixture
def published(results: Path, tmp_path: Path) -> Path:
    out = tmp_path / "evidence"
    assert main(["publish", "--results", str(results), "--out", str(out)]) == 0
    return out


def test_a_text_is_kept_by_block_and_no_statistic_changes(results: Path, published: Path) -> None:
    assert table2.build(published).frame.equals(table2.build(results).frame)
    for before, after in zip(load(results), load(published), strict=True):
        assert before.path.name == after.path.name
        scores = [run.scores("perplexity", "nats_per_token") for run in (before, after)]
        assert scores[1].to_numpy() == pytest.approx(scores[0].to_numpy(), rel=1e-12)
    lines = next(published.glob("*nf4*/answers-*.jsonl")).read_text().splitlines()
    assert len(lines) == 2 * 20  # of two scores, 157 tokens in blocks of 8


def test_a_run_that_was_cut_off_before_it_measured_is_left_out(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored.make_run(results, "fp4")
    out = tmp_path / "evidence"
    assert main(["publish", "--results", str(results), "--out", str(out)]) == 0
    assert f"{folder.name}: left out, nothing was measured" in capsys.readouterr().out
    assert not (out / folder.name).exists()
    assert len(list(out.glob("*/manifest.json"))) == 3


def test_blocks_of_other_tokens_are_not_paired(results: Path, published: Path) -> None:
    def tokens() -> set[tuple[str, str]]:
        path = next(published.glob("*nf4*/answers-*.jsonl"))
        return {(row["name"], row["doc_hash"]) for row in read_answers(path)}

    before = tokens()
    path = next(results.glob("*nf4*/answers-*.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["doc_hash"] = "another token"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["publish", "--results", str(results), "--out", str(published)]) == 0
    assert len(before - tokens()) == 8


def test_a_repetition_compares_with_what_was_published(results: Path, published: Path) -> None:
    folder = next(results.glob("*int4*"))
    found = list(compare(published / folder.name, folder))
    assert [one.file for one in found] == [
        "answers-0123456789ab.jsonl",
        "metrics-0123456789ab.jsonl",
    ]
    assert all(one.same and one.numbers for one in found)
    other = next(results.glob("*nf4*"))
    assert not all(one.same for one in compare(published / folder.name, other))


def test_what_is_published_names_no_path_of_the_machine_that_ran_it(
    results: Path, tmp_path: Path
) -> None:
    folder = next(results.glob("*nf4*"))
    text = tmp_path / "here" / "a text.txt"
    origin = {
        "folder": str(tmp_path / "here"),
        "command": ["run.py", f"eval.perplexity_file={text}"],
    }
    (folder / "origin-train.json").write_text(json.dumps(origin))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["path"] = str(Path.home() / ".cache" / "weights")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "out"
    assert main(["publish", "--results", str(results), "--out", str(out)]) == 0
    kept = out / folder.name
    assert json.loads((kept / "origin-train.json").read_text()) == {
        "folder": ".",
        "command": ["run.py", "eval.perplexity_file=./a text.txt"],
    }
    assert json.loads((kept / "manifest.json").read_text())["model"]["path"] == "~/.cache/weights"
    assert read_document(kept / "origin-train.json")["folder"] == "."  # and it is vouched for


def test_torn_records_are_not_published(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(results.glob("*nf4*/answers-*.jsonl"))
    path.write_bytes(path.read_bytes()[:-3])
    assert main(["publish", "--results", str(results), "--out", str(tmp_path / "out")]) == 1
    assert "is cut off in the middle of a line" in capsys.readouterr().err


def test_a_run_whose_training_did_not_end_is_left_out(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(results.glob("*nf4*/manifest.json"))
    manifest = json.loads(path.read_text())
    manifest["decided_by"]["train"] = {"max_steps": 4}
    path.write_text(json.dumps(manifest))
    out = tmp_path / "out"
    assert main(["publish", "--results", str(results), "--out", str(out)]) == 0
    assert "left out, its training is not finished" in capsys.readouterr().out
    assert not list(out.glob("*nf4*"))


def test_a_folder_is_not_published_into_itself(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "--results", str(results), "--out", str(results)]) == 1
    assert "runs are copied from one to another" in capsys.readouterr().err
