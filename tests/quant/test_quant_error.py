import math

import pytest
import torch
from scipy import stats

from qlora_repro.errors import ConfigError
from qlora_repro.quant.codebooks import make_codebook
from qlora_repro.quant.error import fit_lloyd_max, measure_error, sample_weights

# mean squared error of N(0, 1) weights over their absmax in blocks of 64
KNOWN = {"nf4": 0.00130, "int4": 0.00167, "fp4_e2m1": 0.00173, "fp4": 0.00224, "fp4_e3m0": 0.0055}


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return sample_weights("normal", blocks=200_000, blocksize=64, seed=0)


@pytest.mark.parametrize("dtype", KNOWN)
def test_normal_weights_lose_what_each_type_is_known_to_lose(
    dtype: str, weight: torch.Tensor
) -> None:
    assert measure_error(weight, dtype=dtype, blocksize=64).mse == pytest.approx(
        KNOWN[dtype], rel=0.02
    )


def test_relative_error_and_entropy_are_those_of_their_definitions() -> None:
    weight = torch.tensor([1.0, 0.9, -1 / 7, 0.0])
    found = measure_error(weight, dtype="int4", blocksize=4)
    assert found.mse == pytest.approx((0.9 - 6 / 7) ** 2 / 4, rel=1e-5)
    norm = math.sqrt(1 + 0.81 + 1 / 49)
    assert found.relative == pytest.approx((0.9 - 6 / 7) / norm, rel=1e-5)
    assert found.entropy == pytest.approx(2)


def test_mse_is_in_absmax_units_and_relative_error_has_none(weight: torch.Tensor) -> None:
    one, two = (
        measure_error(weight[:100] * scale, dtype="nf4", blocksize=64) for scale in (1, 0.25)
    )
    assert (one.mse, one.relative) == (two.mse, two.relative)  # a power of two rounds alike


def test_double_quantization_adds_a_little(weight: torch.Tensor) -> None:
    part = weight[:20_000]
    once, twice = (measure_error(part, dtype="nf4", blocksize=64, dq=dq) for dq in (False, True))
    assert once.mse < twice.mse < 1.02 * once.mse
    assert once.entropy == twice.entropy


def test_zeros_have_no_error() -> None:
    found = measure_error(torch.zeros(100), dtype="nf4", blocksize=64)
    assert (found.mse, found.relative, found.entropy) == (0, 0, 0)
    with pytest.raises(ValueError, match="no weights"):
        measure_error(torch.empty(0), dtype="nf4", blocksize=64)


@pytest.mark.parametrize(
    ("name", "known"),
    [("normal", stats.norm()), ("laplace", stats.laplace()), ("student_t", stats.t(5))],
)
def test_samples_are_of_the_distribution_they_are_named_for(
    name: str, known: stats.rv_continuous
) -> None:
    drawn = sample_weights(name, blocks=300, blocksize=64, seed=1)
    assert drawn.shape == (300, 64)
    assert stats.kstest(drawn.view(-1).numpy(), known.cdf).pvalue > 1e-3
    assert torch.equal(drawn, sample_weights(name, blocks=300, blocksize=64, seed=1))


def test_an_unknown_distribution_is_refused() -> None:
    with pytest.raises(ConfigError, match="distribution is 'cauchy', and must be one of normal"):
        sample_weights("cauchy", blocks=1, blocksize=1, seed=0)


def test_lloyds_levels_for_a_normal_sample_are_those_of_max() -> None:
    values = sample_weights("normal", blocks=20_000, blocksize=64, seed=0)
    # Max 1960, Table I: N = 4 and N = 16, positive levels, and the error of N = 16
    four = [0.4528, 1.510]
    sixteen = [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733]
    torch.testing.assert_close(
        fit_lloyd_max(values, levels=4)[2:].tolist(), four, atol=0.01, rtol=0
    )
    book = fit_lloyd_max(values, levels=16)
    torch.testing.assert_close(book[8:].tolist(), sixteen, atol=0.03, rtol=0)
    flat = values.double().view(-1)
    nearest = book[torch.bucketize(flat, (book[:-1] + book[1:]) / 2)]
    assert float((flat - nearest).square().mean()) == pytest.approx(0.009497, rel=0.01)


def test_no_type_of_16_levels_beats_the_optimum(weight: torch.Tensor) -> None:
    blocks = weight[:20_000]
    scaled = (blocks / blocks.abs().amax(dim=1, keepdim=True)).double().view(-1)
    book = fit_lloyd_max(scaled, levels=16)
    best = float(
        (scaled - book[torch.bucketize(scaled, (book[:-1] + book[1:]) / 2)]).square().mean()
    )
    for dtype in ("nf4", "af4", "af4_l1", "int4", "fp4"):
        assert len(make_codebook(dtype, blocksize=64)) <= 16
        assert best < measure_error(blocks, dtype=dtype, blocksize=64).mse


def test_lloyd_needs_as_many_values_as_levels() -> None:
    assert fit_lloyd_max(torch.tensor([3.0, 1.0, 1.0]), levels=2).tolist() == [1, 3]
    with pytest.raises(ValueError, match="4 levels need as many distinct values"):
        fit_lloyd_max(torch.ones(10), levels=4)
