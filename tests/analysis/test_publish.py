"""Published runs: small, and worth as much in every statistic as the runs themselves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import stored

from analysis.__main__ import main
from analysis.artifacts.runs import load_evaluated_runs
from analysis.tables import table2_perplexity_by_dtype as table2
from qlora_repro.store.evidence import read_files, unpacked_run
from qlora_repro.store.load import load_answers, load_runs
from qlora_repro.store.runs import read_json, read_json_lines
from qlora_repro.sweep.replay import compare_runs

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
    assert table2.build_table(published).frame.equals(table2.build_table(results).frame)
    for before, after in zip(
        load_evaluated_runs(results), load_evaluated_runs(published), strict=True
    ):
        assert (before.run_id, before.digest) == (after.run_id, after.digest)
        scores = [run.scores("perplexity", "nats_per_token") for run in (before, after)]
        assert scores[1].to_numpy() == pytest.approx(scores[0].to_numpy(), rel=1e-12)
    answers = load_answers(published).query("run_id == 'small-nf4-False'")
    assert len(answers) == 2 * 20  # of two scores, 157 tokens in blocks of 8


def test_a_run_that_was_cut_off_before_it_measured_is_left_out(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored.make_run(results, "fp4")
    out = tmp_path / "evidence"
    assert main(["publish", "--results", str(results), "--out", str(out)]) == 0
    assert f"{folder.name}: left out, nothing was measured" in capsys.readouterr().out
    assert len(load_runs(out)) == 3
    assert folder.name not in read_files(out)


def test_blocks_of_other_tokens_are_not_paired(results: Path, published: Path) -> None:
    def tokens() -> set[tuple[str, str]]:
        answers = load_answers(published).query("run_id == 'small-nf4-False'")
        return set(zip(answers["name"], answers["doc_hash"], strict=True))

    before = tokens()
    path = next(results.glob("*nf4*/answers-*.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["doc_hash"] = "another token"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["publish", "--results", str(results), "--out", str(published)]) == 0
    assert len(before - tokens()) == 1  # the window that the token is in


def test_a_repetition_compares_with_what_was_published(results: Path, published: Path) -> None:
    folder = next(results.glob("*int4*"))
    with unpacked_run(published, folder.name) as before:
        found = list(compare_runs(before, folder))
    assert [one.file for one in found] == [
        "answers-0123456789ab.jsonl",
        "metrics-0123456789ab.jsonl",
    ]
    assert all(one.same and one.numbers for one in found)
    with unpacked_run(published, folder.name) as before:
        others = list(compare_runs(before, next(results.glob("*nf4*"))))
    assert not all(one.same for one in others)


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
    with unpacked_run(out, folder.name) as published:
        assert read_json(published / "origin-train.json") == {  # by its checksum
            "folder": ".",
            "command": ["run.py", "eval.perplexity_file=./a text.txt"],
        }
        assert read_json(published / "manifest.json")["model"]["path"] == "~/.cache/weights"


def test_a_bad_run_is_named_and_left_out_whole_and_the_others_are_published(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(results.glob("*nf4*/answers-*.jsonl"))
    path.write_bytes(path.read_bytes()[:-3])
    (results / "small-int4-False" / "manifest.json").write_text("[]")
    out = tmp_path / "out"
    assert main(["publish", "--results", str(results), "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert f"{path.parent.name}: left out, it cannot be read" in said.out
    assert "is cut off in the middle of a line" in " ".join(said.out.split())
    assert f"small-int4-False, {path.parent.name}" in said.err
    assert set(read_files(out)) == {"small-bf16-False"}


def test_the_projects_evidence_is_written_to_when_it_is_named(results: Path) -> None:
    with pytest.raises(SystemExit):
        main(["publish", "--results", str(results)])


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
    assert set(load_runs(out)["dtype"]) == {"bf16", "int4"}


def test_a_folder_is_not_published_into_itself(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "--results", str(results), "--out", str(results)]) == 1
    assert "runs are copied from one to another" in capsys.readouterr().err


def test_what_was_published_before_stays(results: Path, published: Path, tmp_path: Path) -> None:
    before = read_files(published)
    more = tmp_path / "more"
    more.mkdir()
    stored.write_losses(stored.make_run(more, "fp4"), list(LOSSES))
    shutil.copytree(results / "small-nf4-False", more / "small-nf4-False")
    (more / "small-nf4-False" / "answers-0123456789ab.jsonl").rename(
        more / "small-nf4-False" / "answers-ba9876543210.jsonl"
    )
    assert main(["publish", "--results", str(more), "--out", str(published)]) == 0
    after = read_files(published)
    assert set(after) == {*before, "small-fp4-False"}
    assert set(after["small-nf4-False"]) == {
        *before["small-nf4-False"],
        "answers-ba9876543210.jsonl",
    }
    with unpacked_run(published, "small-nf4-False") as folder:
        assert len(read_json_lines(folder / "answers-0123456789ab.jsonl")) == 2 * 20
