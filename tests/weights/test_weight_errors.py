"""Errors of data types by weight: judged by closed forms, by direct computation, by the optimum."""

import math
from dataclasses import replace

import pytest
import torch

from qlora_repro.config.schema import MeasureConfig
from qlora_repro.quant.fake_quant import round_trip
from qlora_repro.records import QuantErrors
from qlora_repro.weights import errors
from qlora_repro.weights.errors import (
    LinearWeight,
    count_levels,
    fit_optimal_levels,
    iterate_linear_weights,
    mean_squared_error,
    scale_by_absmax,
)

TYPES = ("nf4", "fp4", "fp4_e2m1", "fp4_e3m0", "int4", "af4", "int8")
GRID = MeasureConfig(
    name="default",
    dtypes=list(TYPES),
    blocksizes=[64],
    distributions=["normal"],
    blocks=4000,
    sample=1 << 20,
    normality=False,
    rows=None,
    chunks=[],
    counts=[],
    seed=0,
)


@pytest.fixture(scope="module")
def normal() -> dict[tuple[str, bool], QuantErrors]:
    rows = errors.measure_distributions(GRID, run_id="r")
    return {(row.dtype, row.dq): row for row in rows}


def test_no_type_beats_the_optimum_of_as_many_levels(
    normal: dict[tuple[str, bool], QuantErrors],
) -> None:
    for row in normal.values():
        if row.optimum is not None:
            assert row.mse > row.optimum, row.dtype
    assert normal["int8", False].optimum is None


def test_nf4_is_the_best_published_type_on_normal_weights_but_for_af4_and_not_the_optimum(
    normal: dict[tuple[str, bool], QuantErrors],
) -> None:
    mse = {dtype: normal[dtype, False].mse for dtype in TYPES}
    # reference values for blocks of 64 on N(0, 1), to their last digit
    assert mse["nf4"] == pytest.approx(0.00130, abs=2e-5)
    assert mse["int4"] == pytest.approx(0.00167, abs=2e-5)
    assert mse["fp4_e2m1"] == pytest.approx(0.00173, abs=2e-5)
    assert mse["fp4"] == pytest.approx(0.00224, abs=2e-5)
    assert mse["fp4_e3m0"] == pytest.approx(0.0055, abs=1e-4)
    assert normal["nf4", False].entropy == pytest.approx(3.88, abs=0.01)


def test_int8_has_the_error_of_a_uniform_step(normal: dict[tuple[str, bool], QuantErrors]) -> None:
    # a step of 1/127 leaves 1/12 of its square; a block's absmax itself, 1 in 64, has no error
    assert normal["int8", False].mse == pytest.approx((1 / 127) ** 2 / 12 * 63 / 64, rel=0.01)
    assert ("int8", True) not in normal


def test_the_optimum_for_uniform_values_is_the_uniform_quantizer() -> None:
    values = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    book = fit_optimal_levels(values, 8, sample=1 << 20)
    assert book.tolist() == pytest.approx([(2 * k + 1) / 8 - 1 for k in range(8)], abs=0.01)
    assert mean_squared_error(values, book) == pytest.approx((2 / 8) ** 2 / 12, rel=0.01)


def test_the_optimum_for_normal_values_is_max_s_table() -> None:
    values = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    book = fit_optimal_levels(values, 4, sample=1 << 20)
    assert book.tolist() == pytest.approx([-1.510, -0.4528, 0.4528, 1.510], abs=0.02)  # Max 1960
    assert mean_squared_error(values, book) == pytest.approx(0.1175, rel=0.01)


def test_a_sample_of_the_values_gives_nearly_the_same_optimum() -> None:
    scaled = scale_by_absmax(torch.randn(64, 4096), blocksize=64)
    whole, part = (fit_optimal_levels(scaled, 16, sample=size) for size in (1 << 20, 40_000))
    assert mean_squared_error(scaled, part) == pytest.approx(
        mean_squared_error(scaled, whole), rel=0.01
    )


def test_values_fewer_than_levels_are_levels_themselves() -> None:
    values = torch.tensor([0.0, 0.5, 0.5, 1.0])
    assert fit_optimal_levels(values, 16, sample=10).tolist() == [0.0, 0.5, 1.0]
    assert mean_squared_error(values, fit_optimal_levels(values, 16, sample=10)) == 0.0


def test_each_weights_error_is_a_round_trips(llama: torch.nn.Module) -> None:
    found = list(iterate_linear_weights(llama))
    rows = list(errors.measure_weights(found, GRID, run_id="r"))
    first = found[0]
    (row,) = (r for r in rows if (r.name, r.dtype, r.dq) == (first.name, "nf4", True))
    change = round_trip(first.values.detach(), dtype="nf4", blocksize=64, dq=True) - first.values
    relative = float(change.detach().norm() / first.values.detach().norm())
    assert row.relative == pytest.approx(relative, rel=1e-4)
    assert (row.layer, row.role, row.n) == (0, "q", first.values.numel())
    assert {r.role for r in rows} == {"q", "k", "v", "o", "gate", "up", "down"}
    assert len(rows) == len(found) * (2 * len(TYPES) - 1)


def test_a_weight_of_zeros_has_no_error_at_all() -> None:
    zeros = LinearWeight(name="x", layer=None, role="other", values=torch.zeros(2, 64))
    for row in errors.measure_weights([zeros], replace(GRID, dtypes=["nf4"]), run_id="r"):
        assert (row.mse, row.relative, row.optimum) == (0.0, 0.0, 0.0)
        assert row.entropy == 0.0


def test_codebooks_are_the_types_own_and_the_optimal_ones() -> None:
    books = list(errors.list_codebooks(replace(GRID, blocks=500), run_id="r"))
    own = {book.dtype: book.levels for book in books if book.fitted is None}
    best = {book.dtype: book.levels for book in books if book.fitted == "normal"}
    assert set(own) == set(TYPES)
    assert best.keys() == {"optimum_15", "optimum_16"}
    assert own["int4"] == pytest.approx([k / 7 for k in range(-7, 8)])
    assert all(values == sorted(values) for values in [*own.values(), *best.values()])
    assert len(own["fp4"]) == count_levels("fp4", 64) == 15  # its two zeros are one level
    assert math.isclose(max(own["nf4"]), 1.0)
