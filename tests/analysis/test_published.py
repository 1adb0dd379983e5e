"""The runs that are kept with the code, and what README.md says of them."""

import re
from pathlib import Path

import pytest

from analysis.findings.report import decided
from qlora_repro.store.load import manifests

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "analysis" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
VERDICTS = (ROOT / "analysis" / "verdicts" / "claims.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def words() -> list[tuple[str, str]]:
    """Return each finding's verdict from the paper's own numbers and from the runs kept here."""
    found = decided(RESULTS)
    return [(p.word, o.word) for p, o in zip(found["paper"], found["ours"], strict=True)]


@pytest.mark.parametrize("text", [README, VERDICTS], ids=["README.md", "claims.md"])
def test_the_seven_verdicts_that_are_written_down_are_those_of_the_runs(
    text: str, words: list[tuple[str, str]]
) -> None:
    """If this fails: python -m analysis claims --out analysis/verdicts, and README.md's table."""
    rows = re.findall(r"^\| (\d) [^|]*\|(?:[^|]*\|)?([^|]*)\|([^|]*)\|$", text, re.MULTILINE)
    told = {int(k): (paper.strip(), ours.strip()) for k, paper, ours in rows[:7]}
    assert sorted(told) == list(range(1, 8))
    for k, (paper, ours) in enumerate(words, 1):
        assert told[k][0].split(" (")[0] == paper
        assert told[k][1].split(" (")[0] == ours


def test_every_run_kept_says_what_ran_from_a_clean_tree_and_is_whole() -> None:
    found = list(manifests(RESULTS))
    assert len(found) >= 60
    for folder, manifest in found:
        assert manifest["provenance"]["dirty"] is False, folder.name
        assert manifest["decided_by"]["model"]["name"] == "smollm2_135m"
        assert list(folder.glob("origin-*.json")), folder.name  # or it cannot be run again
        if "train" in manifest["decided_by"]:
            assert (folder / "adapter" / "whole.json").exists() or (
                folder / "model" / "whole.json"
            ).exists(), folder.name


def test_no_run_kept_names_a_path_of_the_machine_that_ran_it() -> None:
    named = re.compile(r'"(?:[^"\n]*[= ])?/(?:home|root|Users|tmp|work)/')
    assert [p for p in RESULTS.rglob("*.json") if named.search(p.read_text())] == []
