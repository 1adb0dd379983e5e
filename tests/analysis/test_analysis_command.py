"""The command that rebuilds tables and figures: what it refuses, what a table looks like."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main, select_names
from analysis.table import Table
from qlora_repro.errors import ConfigError, StoreError
from qlora_repro.store.load import load_metrics, load_runs


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean table2_perplexity"):
        select_names(["table2_perplexty"], ["table2_perplexity", "table4_mmlu"])


def test_the_command_ends_with_1_and_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "nothing_of_the_kind"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: there is nothing named 'nothing_of_the_kind'")
    assert said.count("\n") == 1


def test_without_names_a_figure_that_lacks_results_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["figures", "--results", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "left out: fig6_memory: " in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "out" / "fig2_lora_coverage.png").exists()
    assert main([*words, "fig6_memory"]) == 1


def test_a_results_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a folder"):
        load_runs(tmp_path / "none")


def test_no_records_are_an_empty_frame(tmp_path: Path) -> None:
    assert load_metrics(tmp_path).empty


def test_missing_cells_are_said_to_be_missing_and_notes_stand_below(tmp_path: Path) -> None:
    frame = pd.DataFrame({"dtype": ["nf4", "a|b"], "ppl": ["27.41", None]})
    table = Table(title="Perplexity", frame=frame, notes=["a stand-in"])
    table.write(tmp_path, "table2")
    text = (tmp_path / "table2.md").read_text()
    assert text.splitlines() == [
        "# Perplexity",
        "",
        "| dtype | ppl |",
        "| --- | --- |",
        "| nf4 | 27.41 |",
        r"| a\|b | missing |",
        "",
        "- a stand-in",
    ]
    assert pd.read_csv(tmp_path / "table2.csv").shape == (2, 2)
