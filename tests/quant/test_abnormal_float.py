import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from qlora_repro.errors import ConfigError
from qlora_repro.quant.codebooks import af4_l1_levels, af4_levels, scaled_cdf

# Yoshida 2023 (arXiv 2306.06965), released code, for blocks of 64
PUBLISHED = [
    -1.0, -0.69441008, -0.51243739, -0.3736951, -0.25607552, -0.14982478, -0.04934812, 0.0,
    0.04273164, 0.12934483, 0.21961274, 0.31675666, 0.42563882, 0.55496234, 0.72424863, 1.0,
]  # fmt: skip


def scaled_normal(blocksize: int, *, blocks: int) -> torch.Tensor:
    weight = torch.randn(blocks, blocksize, generator=torch.Generator().manual_seed(0))
    return weight / weight.abs().amax(dim=1, keepdim=True)


def mean_absolute_error(book: torch.Tensor, values: torch.Tensor) -> float:
    codes = torch.bucketize(values, (book[:-1] + book[1:]) / 2)
    return float((book[codes] - values).abs().mean())


def test_af4_at_64_is_published_to_its_eight_decimals() -> None:
    assert (
        af4_levels(64) - torch.tensor(PUBLISHED)
    ).abs().max() < 3e-8  # half a decimal, and float32


@pytest.mark.parametrize("blocksize", [2, 16, 64, 1024])
def test_the_distribution_is_that_of_drawn_weights(blocksize: int) -> None:
    values = scaled_normal(blocksize, blocks=200_000 // blocksize)
    inside = values[values.abs() < 1].numpy()
    points = np.linspace(-0.9, 0.9, 13)
    drawn = (inside[:, None] <= points).mean(axis=0)
    np.testing.assert_allclose(scaled_cdf(blocksize)(points), drawn, atol=4e-3)


def test_the_distribution_is_the_integral_that_scipy_finds() -> None:
    def integrand(m: float, x: float) -> float:
        inside = 2 * norm.cdf(m) - 1
        share = (norm.cdf(x * m) - norm.cdf(-m)) / inside
        return float(share * 2 * 64 * norm.pdf(m) * inside**63)

    for x in (-0.7, -0.1, 0.3):
        known, _ = quad(integrand, 1e-9, 14, args=(x,), points=[2, 3], epsabs=1e-12)
        assert scaled_cdf(64)(np.array([x]))[0] == pytest.approx(known, abs=1e-10)


@pytest.mark.parametrize("blocksize", [32, 64, 4096])
def test_no_level_of_af4_l1_can_move_and_lose_less(blocksize: int) -> None:
    book, cdf = af4_l1_levels(blocksize).double().numpy(), scaled_cdf(blocksize)
    edges = (book[:-1] + book[1:]) / 2
    off = 2 * cdf(book[1:-1]) - cdf(edges[:-1]) - cdf(edges[1:])  # 0 at a cell's median
    assert np.abs(np.delete(off, 6)).max() < 1e-6  # but for zero, which is held


@pytest.mark.parametrize("blocksize", [64, 1024])
def test_a_cell_for_zero_lowers_the_error_of_drawn_weights(blocksize: int) -> None:
    values = scaled_normal(blocksize, blocks=400_000 // blocksize)
    optimum, published = (
        mean_absolute_error(f(blocksize), values) for f in (af4_l1_levels, af4_levels)
    )
    assert optimum < 0.99 * published


@pytest.mark.parametrize("blocksize", [2, 3, 8, 128, 256, 65536])
def test_levels_ascend_at_any_block_size_and_draw_in_as_it_grows(blocksize: int) -> None:
    for levels in (af4_levels, af4_l1_levels):
        book = levels(blocksize)
        assert book[[0, 7, 15]].tolist() == [-1, 0, 1]
        assert (book.diff() > 0).all()
        assert (levels(blocksize * 2)[8:15] < book[8:15]).all()


def test_blocks_of_one_weight_are_refused() -> None:
    with pytest.raises(ConfigError, match="blocksize=1; use 2 or more"):
        af4_levels(1)
