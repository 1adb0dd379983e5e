"""The paper's own evidence: effects that follow from its printed cells, and honest words."""

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.__main__ import main
from analysis.findings.conclusions import (
    FINDINGS,
    Conclusion,
    build_details,
    conclude,
    report_findings,
)
from analysis.findings.evidence import Criteria, load_criteria, printed_mmlu_noise
from analysis.findings.finding_4_data import printed_table11
from qlora_repro.stats.estimates import levels_without_repeats
from qlora_repro.stats.hypothesis_tests import Comparison, MissingComparison
from qlora_repro.store.verdicts import load_released_verdicts


@pytest.fixture(scope="module")
def criteria() -> Criteria:
    return load_criteria()


@pytest.fixture(scope="module")
def verdicts(criteria: Criteria) -> list[Conclusion]:
    evidence = [
        finding.evidence_from_paper(load_released_verdicts(), criteria) for finding in FINDINGS
    ]
    return conclude(evidence, criteria)


def part(verdict: Conclusion, words: str) -> Comparison:
    (found,) = [p for p in verdict.evidence.measured if words in p.about.part]
    return found


def test_differences_of_table_4_are_those_of_its_recomputed_means(
    verdicts: list[Conclusion],
) -> None:
    assert part(verdicts[0], "Table 4").effect == pytest.approx(52.9875 - 53.0375)
    assert part(verdicts[1], "Table 4").effect == pytest.approx(52.9875 - 52.1875)


def test_noise_of_mmlu_is_that_of_cells_printed_twice() -> None:
    apart = [0.2, 0, 0.3, 0.7, 0, 0, 0.7, 0]  # Alpaca and FLAN v2, 7B to 65B
    assert printed_mmlu_noise().variance == pytest.approx(np.mean(np.square(apart)))


def test_means_of_table_11_are_those_of_its_cells() -> None:
    data, size, epochs = levels_without_repeats(printed_table11())
    assert data.means == pytest.approx([34.49, 39.89, 44.08], abs=0.005)
    assert size.means == pytest.approx([39.28, 39.16, 40.02], abs=0.005)
    assert epochs.means == pytest.approx([39.11, 40.13, 39.21], abs=0.005)


def test_order_effects_are_the_shares_of_first_and_second_wins(verdicts: list[Conclusion]) -> None:
    assert part(verdicts[4], "vicuna").effect == pytest.approx(56.2 - 30.3, abs=0.15)
    assert part(verdicts[4], "oa").effect == pytest.approx(49.0 - 36.4, abs=0.15)


def test_mmlu_and_chat_do_not_rank_data_alike(verdicts: list[Conclusion]) -> None:
    found = part(verdicts[5], "MMLU")
    assert abs(found.effect) < 0.2
    assert "13b 0.14" in found.about.notes[0]  # from Tables 5 and 6: 1 - 6 * 72 / (8 * 63)


def test_a_finding_with_a_part_that_was_never_run_is_not_supported(
    verdicts: list[Conclusion],
) -> None:
    for verdict in (verdicts[1], verdicts[6]):
        assert verdict.evidence.missing
        assert verdict.outcome == "not resolved"


def test_fp4_after_tuning_t5_is_not_worse_than_nf4(verdicts: list[Conclusion]) -> None:
    found = part(verdicts[1], "Table 3")
    assert found.effect == pytest.approx(0.06)
    assert found.under_floor


def test_large_effects_are_supported_after_holm(verdicts: list[Conclusion]) -> None:
    assert [verdicts[k].outcome for k in (2, 3)] == ["supported", "supported"]
    assert all(verdict.outcome != "contradicted" for verdict in verdicts)


def test_the_command_writes_both_sources_apart_from_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").mkdir()
    found = report_findings(tmp_path / "store", tmp_path / "out")
    assert [verdict.outcome for verdict in found["ours"]] == ["not run"] * 7
    whole = json.loads((tmp_path / "out" / "claims.json").read_text())
    assert [len(whole["sources"][name]) for name in ("paper", "ours")] == [7, 7]
    assert whole["sources"]["paper"][0]["parts"][0]["detectable"] > 1
    page = (tmp_path / "out" / "claims.md").read_text()
    assert page.startswith("# The seven findings")
    assert "not resolved (2 of 4 parts not run)" in page
    assert "margin of 0.005 nats a token" in capsys.readouterr().out


def test_what_is_missing_is_named(criteria: Criteria, verdicts: list[Conclusion]) -> None:
    frame = build_details("paper", verdicts, criteria).frame
    lacking = frame[frame["alone"] == "not run"]
    assert lacking["test"].str.startswith("needs ").all()
    assert sum(isinstance(p, MissingComparison) for v in verdicts for p in v.evidence.parts) == len(
        lacking
    )


def test_a_results_folder_that_is_not_there_is_told_in_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["claims", "--results", "nowhere"]) == 1
    assert "nowhere is not a folder" in capsys.readouterr().err
