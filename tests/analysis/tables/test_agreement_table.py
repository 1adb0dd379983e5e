"""Section 5.3's agreement beside what the released verdicts give."""

from pathlib import Path

import pytest

from analysis.tables.agreement import build_table


def test_released_votes_agree_less_than_printed_and_with_gpt4_as_printed(tmp_path: Path) -> None:
    table = build_table(tmp_path)
    rows = table.frame.set_index(["agreement of", "statistic"])
    assert float(rows.loc[("people", "fleiss"), "ours"]) == pytest.approx(0.185, abs=5e-4)
    assert float(rows.loc[("judge and majority", "fleiss"), "difference"]) == pytest.approx(
        0.01, abs=0.005
    )
    assert rows.loc[("systems", "kendall"), "Table 7's Elos"] == "0.57 / 0.43"
    assert rows.loc[("systems", "spearman"), "Table 7's Elos"] == "0.62 / 0.43"
    assert any("the released votes give 0.18" in note for note in table.notes)
