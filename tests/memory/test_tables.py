"""The table of a planned sweep: what tells its rows apart, the time, and how it fits a terminal."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from qlora_repro.config.schema import RunConfig
from qlora_repro.memory.prediction import predict_memory
from qlora_repro.memory.remaining_work import estimate_remaining_work
from qlora_repro.memory.tables import PlannedCell, build_sweep_table
from qlora_repro.reporting.stored_result import describe_cell

Configured = Callable[..., RunConfig]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shown(configured: Configured, tmp_path: Path) -> Callable[..., str]:
    """Return Table 4's cells of 65B as a terminal of 80 columns shows them."""

    def show(*words: str) -> str:
        names = [(dtype, data) for dtype in ("bf16", "nf4") for data in ("alpaca", "flan_v2")]
        cells = [
            configured(
                *("model=llama_65b", f"dtype={dtype}", f"data={data}", "eval=mmlu"),
                *("stages=[plan]", f"results_dir={tmp_path}", *words),
            )
            for dtype, data in names
        ]
        planned = [
            PlannedCell(
                label=describe_cell(cfg),
                cfg=cfg.plan,
                memory=predict_memory(cfg),
                work=estimate_remaining_work(cfg),
            )
            for cfg in cells
        ]
        console = Console(width=80, file=io.StringIO(), record=True)
        console.print(build_sweep_table(planned))
        return console.export_text()

    return show


def test_a_row_names_the_dataset_and_fits_one_line(shown: Callable[..., str]) -> None:
    rows = [line for line in shown().splitlines() if line.startswith("│")]
    assert len(rows) == 4
    assert [row.split("│")[1].strip() for row in rows] == [
        *("llama_65b, bf16, alpaca", "llama_65b, bf16, flan_v2"),
        *("llama_65b, nf4 + dq, alpaca", "llama_65b, nf4 + dq, flan_v2"),
    ]


def test_without_a_rate_the_setting_that_estimates_is_named_once(shown: Callable[..., str]) -> None:
    text = " ".join(shown().split())
    assert text.count("plan.tflops") == 1
    assert "time unknown for 4: no earlier cell is like them; plan.tflops=RATE" in text


def test_with_a_rate_hours_and_price_are_summed_and_marked(shown: Callable[..., str]) -> None:
    text = " ".join(shown("plan.tflops=600", "plan.usd_per_hour=2.5").split())
    assert text.count("~") == 5  # four rows and the line that says what it means
    assert "GPU-hours in all, " in text
    assert "an estimate (~) at 600 TFLOP/s, rows at full length, auto taken for the least" in text
    assert "for a card of 80 GB); left out: scores after" in text
    assert " USD" in text
    assert " USD" not in shown("plan.tflops=600")


def test_the_command_names_what_tells_its_cells_apart(tmp_path: Path) -> None:
    words = ["-m", "model=llama_7b", "data=alpaca,flan_v2", "stages=[plan]", "eval=mmlu"]
    done = subprocess.run(
        [sys.executable, "run.py", *words, f"results_dir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    table = done.stdout.partition("a row a cell")[2]
    assert "│ llama_7b, alpaca " in table
    assert "│ llama_7b, flan_v2 " in table
