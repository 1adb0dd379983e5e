"""The runs that are kept with the code, and what README.md says of them."""

import re
from pathlib import Path

import pandas as pd
import pytest

from analysis.findings.conclusions import conclude_findings
from qlora_repro.config.paths import EVIDENCE
from qlora_repro.store.evidence import read_files
from qlora_repro.store.load import load_runs

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
VERDICTS = (ROOT / "analysis" / "verdicts" / "claims.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def words() -> list[tuple[str, str]]:
    """Return each finding's verdict from the paper's own numbers and from the runs kept here."""
    found = conclude_findings(EVIDENCE)
    return [(p.outcome, o.outcome) for p, o in zip(found["paper"], found["ours"], strict=True)]


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


def test_every_run_kept_says_what_ran_from_a_clean_tree_and_is_complete() -> None:
    runs, files = load_runs(), read_files(EVIDENCE)
    assert len(runs) >= 60
    for run in runs.itertuples():
        assert run.dirty is False, run.folder
        assert run.model == "smollm2_135m"
        names = files[run.folder]
        assert any(name.startswith("origin-") for name in names), run.folder  # to be run again
        if run.tuned:
            assert {"adapter/whole.json", "model/whole.json"} & set(names), run.folder


def test_no_run_kept_names_a_path_of_the_machine_that_ran_it() -> None:
    named = re.compile(r'"(?:[^"\n]*[= ])?/(?:home|root|Users|tmp|work)/')
    texts = [text for files in read_files(EVIDENCE).values() for text in files.values()]
    assert len(texts) > 1000
    assert [text for text in texts if named.search(text)] == []


def test_the_evidence_is_small_and_every_file_opens_in_one_line() -> None:
    paths = sorted(EVIDENCE.iterdir())
    assert len(paths) < 20
    assert sum(path.stat().st_size for path in paths) < 5e6
    for path in paths:
        assert "run_id" in pd.read_parquet(path)
