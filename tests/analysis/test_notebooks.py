"""Every notebook runs from its own folder, keeps no output and does nothing but import and show.

Cells run in this process, the last expression of each as what it shows: a kernel would add seconds
to each notebook, and no check.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import numpy as np
import pytest
import stored
from matplotlib.figure import Figure
from rich.table import Table

from analysis.judge_audit import report
from analysis.tables import TABLES
from qlora_repro.config.schema import RunConfig
from qlora_repro.records import Metric
from qlora_repro.stages.plan import run_plan

pytestmark = pytest.mark.long

matplotlib.use("agg")
FOLDER = Path(__file__).resolve().parents[2] / "analysis" / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
LIKE_PAPER = (
    *("data=oasst1", "stages=[plan]", "train.batch_size=1", "train.micro_batch_size=1"),
    *("plan.length=512", "lora.dtype=bfloat16", "train.gradient_checkpointing=true"),
)


@pytest.fixture(scope="module")
def place(configured: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's folder of notebooks, beside a store with something for each of them."""
    root = tmp_path_factory.mktemp("checkout")
    results = root / "outputs" / "results"
    results.mkdir(parents=True)
    losses = np.random.default_rng(0).normal(3, 1, size=160)
    for dtype, change in (("bf16", 0.0), ("nf4", 0.1)):
        kl = [change] * len(losses) if change else []
        stored.write_losses(stored.make_run(results, dtype), list(losses + change), kl=kl)
        scores = [Metric(run_id="r", task="piqa", name="acc", value=0.6, stderr=0.03, n=100)]
        stored.write(stored.make_run(results, dtype, model="asked"), "metrics", scores)
    for size in (7, 13):
        run_plan(configured(f"model=llama_{size}b", *LIKE_PAPER, f"results_dir={results}"))
    folder = root / "analysis" / "notebooks"
    folder.mkdir(parents=True)
    return folder


def code(path: Path) -> list[str]:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


def shown(cells: list[str]) -> list[Any]:
    """Run the cells in one namespace; return what the last expression of each is."""
    names: dict[str, Any] = {}
    values = []
    for cell in cells:
        *before, last = ast.parse(cell).body
        exec(compile(ast.Module(before, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            values.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
    return values


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_a_table_or_a_figure(
    path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(report, "RESAMPLES", 20)
    values = shown(code(path))
    if path.stem == "audit":
        assert "audit of gpt-4 on vicuna, three_class" in capsys.readouterr().out
        return
    assert values
    assert all(isinstance(value, Table | Figure) for value in values)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_no_output_and_has_no_logic(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
    for cell in code(path):
        assert all(isinstance(node, allowed) for node in ast.parse(cell).body)
        assert len(cell.splitlines()) < 10


def test_every_table_of_the_released_verdicts_has_a_notebook() -> None:
    judged = ("table1_elo", "table6_vicuna_vs_chatgpt", "table7_elo", "table12_pairwise")
    wanted = {*judged, "table13_order", "table2_perplexity_by_dtype", "fig6_memory", "audit"}
    stems = {path.stem for path in BOOKS}
    assert wanted <= stems
    assert {name for name in TABLES if name.startswith("table")} <= stems
