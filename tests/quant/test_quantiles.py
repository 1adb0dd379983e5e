from statistics import NormalDist

import numpy as np
import pytest
import torch

from qlora_repro.errors import ConfigError
from qlora_repro.quant.codebooks import asymmetric, codebook, empirical, empirical_with_zero
from qlora_repro.quant.quantiles import quantiles, sram_errors, sram_quantiles

PROBABILITIES = torch.linspace(0, 1, 33, dtype=torch.float64)


def normal(n: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n", [1, 2, 100, 10_001])
def test_exact_quantiles_are_those_of_numpy(n: int) -> None:
    known = np.quantile(normal(n).double().numpy(), PROBABILITIES.numpy())
    np.testing.assert_allclose(quantiles(normal(n), PROBABILITIES).numpy(), known, atol=1e-12)


def test_sram_quantiles_are_the_mean_of_numpys_over_whole_chunks() -> None:
    values = normal(1050)
    chunks = values[:1000].view(10, 100).double().numpy()
    known = np.quantile(chunks, PROBABILITIES.numpy(), axis=1).mean(axis=1)
    found = sram_quantiles(values, PROBABILITIES, chunk=100)
    np.testing.assert_allclose(found.numpy(), known, atol=1e-12)


def test_one_chunk_of_everything_is_exact() -> None:
    values = normal(500)
    exact = quantiles(values, PROBABILITIES)
    assert torch.equal(sram_quantiles(values, PROBABILITIES, chunk=500), exact)
    assert sram_errors(values, chunks=[500], counts=[1])[0].largest == 0


def test_larger_chunks_come_closer_and_more_of_them_do_not_undo_the_bias() -> None:
    rows = sram_errors(normal(1 << 18), chunks=[16, 64, 256, 1024], counts=[1, 256])
    many = [row.mean for row in rows if row.count == 256]
    assert many == sorted(many, reverse=True)
    assert many[0] > 10 * many[-1]
    bias = {row.chunk: row.outward for row in rows if row.count == 256}
    assert bias[16] < -0.005  # nearer the median: the chunk's tails are short
    assert [row.mean for row in rows if row.count == 1] == [0] * 4


def test_combinations_that_need_more_values_than_there_are_have_no_row() -> None:
    rows = sram_errors(normal(1000), chunks=[100, 600], counts=[1, 4, 11])
    assert [(row.chunk, row.count) for row in rows] == [(100, 1), (100, 4), (600, 1)]


def test_the_asymmetric_construction_on_normal_quantiles_is_nf4() -> None:
    assert torch.equal(asymmetric(NormalDist().inv_cdf, bits=4), codebook("nf4"))


def test_the_asymmetric_construction_on_normal_weights_comes_near_nf4() -> None:
    book = empirical_with_zero(normal(1 << 18), bits=4)
    assert book[7] == 0
    assert (book - codebook("nf4")).abs().max() < 0.01


def test_an_empirical_code_is_used_evenly() -> None:
    values = normal(1 << 16).exp()  # far from normal
    book = empirical(values, bits=3)
    edges = quantiles(values, torch.linspace(0, 1, 9, dtype=torch.float64))
    inside = (edges[:-1] + edges[1:]) / 2
    torch.testing.assert_close(book.double(), inside / inside.abs().max(), atol=1e-6, rtol=0)
    assert [int(x) for x in torch.histogram(values.double(), edges).hist] == [1 << 13] * 8


@pytest.mark.parametrize("code", [empirical, empirical_with_zero])
def test_a_codebook_of_zeros_is_refused(code: type) -> None:
    with pytest.raises(ConfigError, match="all weights are zero"):
        code(torch.zeros(64), bits=4)


def test_what_has_no_quantiles_is_refused() -> None:
    half = torch.tensor([0.5])
    with pytest.raises(ValueError, match="no values"):
        quantiles(torch.empty(0), half)
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        quantiles(torch.tensor([1.0, torch.nan]), half)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        quantiles(normal(3), torch.tensor([1.5]))
    with pytest.raises(ValueError, match="3 values do not fill a chunk of 4"):
        sram_quantiles(normal(3), half, chunk=4)
