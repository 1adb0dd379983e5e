"""What `analysis all` makes, leaves out and says."""

import re
import subprocess
import sys
from pathlib import Path

import analysis_outputs
import pytest
from scored_runs import add_run

from analysis import build
from analysis.__main__ import main
from analysis.judge_audit import report
from analysis.report.page import (
    build_artifact_sections,
    build_content,
    classify_cell,
    render_page,
)
from analysis.tables import TABLES, build_table

KEPT = ("table4_mmlu_by_dtype", "table8_crows_bias", "table13_order")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebuild a few tables, two figures and no audit: the others are seconds each."""
    monkeypatch.setattr(build, "TABLES", {name: TABLES[name] for name in KEPT})
    drawn = ("fig2_lora_coverage", "normality")
    monkeypatch.setattr(build, "FIGURES", {name: build.FIGURES[name] for name in drawn})
    monkeypatch.setattr(build, "audit_verdicts", lambda *_: iter(()))


@pytest.mark.usefixtures("few")
def test_what_has_results_is_written_and_the_rest_is_named_with_its_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    results.mkdir()
    settings = {"model.name": "llama_7b", "data.name": "alpaca"}
    add_run(results, settings, {"mmlu/acc": [1.0, 0.0]})
    assert main(["all", "--results", str(results), "--out", str(out)]) == 0
    stems = {"table4_mmlu_by_dtype", "table13_order"}
    forms = {f"{stem}.{form}" for stem in stems for form in ("md", "csv", "tex")}
    others = {"fig2_lora_coverage.png", "claims.md", "claims.json", "report.html"}
    assert {path.name for path in out.iterdir()} == forms | others
    said = " ".join(capsys.readouterr().out.split())
    assert "left out: table8_crows_bias: no run in" in said
    assert "python run.py experiments=table8_crows_bias makes them" in said
    assert "left out: normality: " in said
    assert "2 tables, 1 figures, 0 audits; 2 left out for lack of results" in said


@pytest.mark.usefixtures("few")
def test_a_clone_without_runs_still_has_what_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build.build_outputs(tmp_path / "none")
    assert list(made.tables) == ["table13_order"]
    assert made.skipped["table4_mmlu_by_dtype"].startswith("there are no runs in ")
    content = build_content(made, tmp_path / "report.html")
    assert "There are none yet." in render_page(content)


def test_a_results_folder_that_was_named_must_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--results", str(tmp_path / "none")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_a_table_of_printed_numbers_alone_has_no_results(tmp_path: Path) -> None:
    assert not build_table("table4_mmlu_by_dtype", tmp_path).has_results
    add_run(tmp_path, {"model.name": "llama_7b", "data.name": "alpaca"}, {"mmlu/acc": [1.0, 0.0]})
    assert build_table("table4_mmlu_by_dtype", tmp_path).has_results


def test_the_page_says_which_command_and_which_runs_made_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESAMPLES", 20)
    made = analysis_outputs.make(tmp_path)
    (table, *_) = build_artifact_sections(made)
    assert table.commands == [
        "python run.py experiments=table4_mmlu_by_dtype",
        "python -m analysis tables table4_mmlu_by_dtype",
    ]
    assert table.runs == [f"run-{k}" for k in range(6)]
    content = build_content(made, tmp_path / "report.html")
    text = render_page(content)
    assert text.count("(uncommitted changes)") >= 2  # runs of seed 2 in the table of runs
    assert "6 runs and plans are behind this page; 2 of\nthem" in text
    assert analysis_outputs.ATTACK not in text
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)


def test_only_words_that_are_looked_for_are_marked() -> None:
    assert [
        classify_cell(text) for text in ("supported (p < 0.0001)", "40.0 (limit 20)", "OOM", "4")
    ] == [
        *("supported", "marked", "missing", ""),
    ]


@pytest.mark.slow
def test_everything_is_rebuilt_in_two_minutes_without_a_gpu_stack(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    script = (
        "import sys; from analysis.__main__ import main; "
        f"code = main(['all', '--results', {str(results)!r}, '--out', {str(tmp_path)!r}]); "
        "sys.exit(code or bool({'torch', 'transformers', 'openai'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert (tmp_path / "report.html").stat().st_size > 100_000
