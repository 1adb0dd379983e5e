"""Table 2 from a store whose differences are known."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored

from analysis.tables import table2_perplexity_by_dtype as table2
from qlora_repro.records import QuantErrors

LOSSES = np.random.default_rng(0).normal(3, 1, size=160)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    return partial(stored.make_run, tmp_path)


@pytest.fixture
def rows(tmp_path: Path, run: Callable[..., Path]) -> dict[str, dict[str, Any]]:
    """Every loss of a type is the 16-bit one and a constant: all intervals have no width."""
    worse = {("bf16", False): 0.0, ("nf4", False): 0.1, ("nf4", True): 0.1, ("int4", False): 0.3}
    for (dtype, dq), change in worse.items():
        folder = run(dtype, dq=dq)
        kl = [change] * len(LOSSES) if dtype != "bf16" else []
        stored.write_losses(folder, list(LOSSES + change), kl=kl)
    return {row["type"]: row for row in table2.build_table(tmp_path).frame.to_dict("records")}


def test_the_rise_is_that_of_perplexity_paired_by_token(rows: dict[str, dict[str, Any]]) -> None:
    rise = 100 * (math.exp(0.1) - 1)
    assert rows["nf4"]["rise over 16-bit"] == f"+{rise:.1f} % [+{rise:.1f}, +{rise:.1f}]"
    assert rows["bf16"]["rise over 16-bit"] == "-"
    assert float(rows["bf16"]["perplexity"]) == pytest.approx(math.exp(LOSSES.mean()), abs=0.005)


def test_rows_stand_in_the_order_of_perplexity(rows: dict[str, dict[str, Any]]) -> None:
    first, *_, last = rows
    assert (first, last) == ("bf16", "int4")


def test_nf4_is_better_than_a_worse_type_and_not_told_from_itself_quantized_twice(
    rows: dict[str, dict[str, Any]],
) -> None:
    gain = 100 * (math.exp(-0.2) - 1)
    assert rows["int4"]["NF4 against it"] == f"{gain:.1f} % [{gain:.1f}, {gain:.1f}]"
    assert rows["int4"]["verdict on NF4"] == "better"
    assert rows["nf4 + dq"]["verdict on NF4"] == "not resolved"
    assert rows["nf4"]["verdict on NF4"] == "-"
    assert rows["bf16"]["verdict on NF4"] == "worse"


def test_the_papers_numbers_stand_beside_the_types_that_it_has(
    rows: dict[str, dict[str, Any]],
) -> None:
    assert {name: row["paper"] for name, row in rows.items()} == {
        "bf16": "-",
        "nf4": "-",
        "nf4 + dq": "27.41",
        "int4": "34.34",
    }


def test_divergence_is_shown_where_it_was_measured(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["int4"]["KL, nats a token"] == "0.3000 [0.3000, 0.3000]"
    assert rows["bf16"]["KL, nats a token"] == "-"
    assert rows["int4"]["same top token"] == "not measured"


def test_runs_that_read_the_text_in_another_way_are_not_compared(
    tmp_path: Path, run: Callable[..., Path]
) -> None:
    stored.write_losses(run("bf16"), list(LOSSES), window=8)
    stored.write_losses(run("nf4"), list(LOSSES), window=16)
    rows = table2.build_table(tmp_path).frame.to_dict("records")
    assert {row["rise over 16-bit"] for row in rows} == {"-"}


def test_the_gaussian_column_is_the_types_error_on_normal_values(
    tmp_path: Path,
    run: Callable[..., Path],
) -> None:
    stored.write_losses(run("nf4"), list(LOSSES))
    row = QuantErrors(
        run_id="r", source="normal", name="", layer=None, role=None, dtype="nf4", blocksize=64,
        dq=False, n=64, levels=16, mse=0.0013, relative=0.1, entropy=3.9, optimum=0.0012,
    )  # fmt: skip
    stored.write(run("bf16"), "quant_errors", [row])
    (found,) = table2.build_table(tmp_path).frame.to_dict("records")
    assert found["MSE on N(0,1), 1e-3"] == "1.300"


def test_an_empty_store_gives_a_table_without_rows(tmp_path: Path) -> None:
    assert table2.build_table(tmp_path).frame.empty
