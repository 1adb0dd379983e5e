import numpy as np
import pytest
import torch

from qlora_repro.quant.error import estimate_sram_quantiles, measure_sram_errors

NAMES = {"run_id": "r", "distribution": "normal"}
PROBABILITIES = np.linspace(0, 1, 33)


def normal(n: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(0))


def test_sram_quantiles_are_the_mean_of_numpys_over_whole_chunks() -> None:
    values = normal(1050)
    chunks = values[:1000].view(10, 100).double().numpy()
    known = np.quantile(chunks, PROBABILITIES, axis=1).mean(axis=1)
    found = estimate_sram_quantiles(values, PROBABILITIES, chunk=100)
    np.testing.assert_allclose(found, known, atol=1e-12)


def test_one_chunk_of_everything_is_exact() -> None:
    values = normal(500)
    assert next(measure_sram_errors(values, **NAMES, chunks=[500], counts=[1])).largest == 0


def test_larger_chunks_come_closer_and_more_of_them_do_not_undo_the_bias() -> None:
    rows = list(
        measure_sram_errors(normal(1 << 18), chunks=[16, 64, 256, 1024], counts=[1, 256], **NAMES)
    )
    many = [row.mean for row in rows if row.count == 256]
    assert many == sorted(many, reverse=True)
    assert many[0] > 10 * many[-1]
    bias = {row.chunk: row.outward for row in rows if row.count == 256}
    assert bias[16] < -0.005  # nearer the median: the chunk's tails are short
    assert [row.mean for row in rows if row.count == 1] == [0] * 4


def test_combinations_that_need_more_values_than_there_are_have_no_row() -> None:
    rows = measure_sram_errors(normal(1000), **NAMES, chunks=[100, 600], counts=[1, 4, 11])
    assert [(row.chunk, row.count) for row in rows] == [(100, 1), (100, 4), (600, 1)]


def test_values_that_fill_no_chunk_are_refused() -> None:
    with pytest.raises(ValueError, match="3 values do not fill a chunk of 4"):
        estimate_sram_quantiles(normal(3), np.array([0.5]), chunk=4)
