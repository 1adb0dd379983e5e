"""Each table and figure of the paper has its script, its printed numbers and its notebook."""

import json
from pathlib import Path

import pytest
from test_preset_composition import ARTIFACTS

from analysis.build import list_presets
from analysis.figures import FIGURES
from analysis.paper_tables import PAPER
from analysis.tables import TABLES

ANALYSIS = PAPER.parent


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_an_artifact_has_a_script_of_its_name(artifact: str) -> None:
    assert (ANALYSIS / "tables" / f"{artifact}.py").is_file()
    assert TABLES[artifact]
    if artifact.startswith("fig"):
        assert (ANALYSIS / "figures" / f"{artifact}.py").is_file()
        assert FIGURES[artifact]


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_an_artifact_has_its_printed_numbers(artifact: str) -> None:
    lines = (PAPER / f"{artifact}.csv").read_text().splitlines()
    assert len(lines) > 1


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_an_artifact_has_a_notebook_that_shows_it(artifact: str) -> None:
    path = ANALYSIS / "notebooks" / f"{artifact}.ipynb"
    cells = json.loads(path.read_text())["cells"]
    code = "".join(line for cell in cells if cell["cell_type"] == "code" for line in cell["source"])
    assert f'("{artifact}", RESULTS)' in code


@pytest.mark.parametrize(("artifact", "wanted"), ARTIFACTS.items())
def test_the_report_names_the_presets_of_an_artifact(artifact: str, wanted: list[str]) -> None:
    assert list_presets(artifact) == wanted


def test_there_is_no_file_of_printed_numbers_without_an_artifact() -> None:
    others = {"agreement", "datasets", "table2_rerun"}  # Section 5.3, Appendix B.1, by others
    assert {path.stem for path in Path(PAPER).glob("*.csv")} == {*ARTIFACTS, *others}
