from statistics import NormalDist

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from scipy.stats import norm

from qlora_repro.config.registry import DATA_TYPES, FULL_PRECISION
from qlora_repro.errors import ConfigError
from qlora_repro.quant.blockwise import dequantize, quantize
from qlora_repro.quant.codebooks import count_code_bits, make_codebook

# QLoRA, Appendix E
PUBLISHED_NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def test_nf4_is_the_table_of_bitsandbytes_to_the_last_bit() -> None:
    assert torch.equal(make_codebook("nf4"), bnb.get_4bit_type("nf4", device="cpu"))


def test_nf4_is_what_the_paper_prints() -> None:
    assert (make_codebook("nf4") - torch.tensor(PUBLISHED_NF4)).abs().max() < 1e-6


def test_equation_4_of_the_paper_does_not_give_nf4() -> None:
    quantile = NormalDist().inv_cdf
    inner = [(quantile(i / 17) + quantile((i + 1) / 17)) / 2 for i in range(1, 16)]
    levels = torch.tensor(inner) / max(inner)  # i = 0 and i = 16 are infinite
    assert (levels - make_codebook("nf4")[:15]).abs().max() > 0.05
    assert (levels - make_codebook("nf4")[1:]).abs().max() > 0.05


def test_fp4_is_the_table_of_bitsandbytes() -> None:
    theirs = bnb.get_4bit_type("fp4", device="cpu").sort().values
    assert torch.equal(make_codebook("fp4"), theirs)


@pytest.mark.parametrize(
    ("name", "torch_dtype"),
    [("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)],
)
def test_fp8_holds_every_finite_number_of_the_type_in_torch(
    name: str, torch_dtype: torch.dtype
) -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(torch_dtype).float()
    numbers = numbers[numbers.isfinite()].unique()
    assert torch.equal(make_codebook(name), numbers / numbers.max())


@pytest.mark.parametrize("bits", range(2, 9))
def test_nf_k_has_an_exact_zero_and_one_level_more_above_it_than_below(bits: int) -> None:
    book = make_codebook(f"nf{bits}")
    assert len(book) == 2**bits
    assert int((book > 0).sum()) == 2 ** (bits - 1)
    assert int((book == 0).sum()) == 1
    assert (book[0], book[-1]) == (-1, 1)


@pytest.mark.parametrize("bits", range(2, 9))
def test_nf_k_levels_lie_at_evenly_spaced_normal_probabilities(bits: int) -> None:
    half = 2 ** (bits - 1)
    above = make_codebook(f"nf{bits}")[half:].double().numpy()
    top = norm.ppf(1 - (1 / (2 * half - 1) + 1 / (2 * half)) / 4)
    steps = np.diff(norm.cdf(np.concatenate([[0.0], above * top])))
    np.testing.assert_allclose(steps, steps.mean(), rtol=2e-4)  # offset: seven decimals


@pytest.mark.parametrize("bits", range(2, 9))
def test_int_k_is_evenly_spaced_and_symmetric(bits: int) -> None:
    largest = 2 ** (bits - 1) - 1
    assert make_codebook(f"int{bits}").mul(largest).round().tolist() == list(
        range(-largest, largest + 1)
    )
    assert count_code_bits(make_codebook(f"int{bits}")) == bits


def test_double_quantization_uses_the_dynamic_map_of_bitsandbytes() -> None:
    assert torch.equal(make_codebook("dynamic8"), bnb.create_dynamic_map())


@pytest.mark.parametrize(
    ("name", "positive"),
    [
        ("int4", [1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7, 6 / 7, 1]),
        ("fp4_e2m1", [0.5 / 6, 1 / 6, 1.5 / 6, 2 / 6, 3 / 6, 4 / 6, 1]),
        ("fp4_e3m0", [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]),
    ],
)
def test_symmetric_types_have_seven_levels_each_side_of_zero(
    name: str, positive: list[float]
) -> None:
    expected = [-p for p in reversed(positive)] + [0.0] + positive
    torch.testing.assert_close(make_codebook(name), torch.tensor(expected))


@pytest.mark.parametrize("name", [*sorted({*DATA_TYPES} - {*FULL_PRECISION}), "dynamic8"])
def test_levels_ascend_from_within_minus_one_to_one_through_an_exact_zero(name: str) -> None:
    book = make_codebook(name, blocksize=64)
    assert book.dtype == torch.float32
    assert (book.diff() >= 0).all()
    assert book[0] >= -1
    assert book[-1] == 1
    assert (book == 0).any()


@pytest.mark.parametrize(("name", "bits"), [("int4", 4), ("fp4", 4), ("nf4", 4), ("int8", 8)])
def test_a_packed_code_takes_as_many_bits_as_the_name_says(name: str, bits: int) -> None:
    assert count_code_bits(make_codebook(name)) == bits


def test_normal_weights_lose_least_in_nf4_and_most_in_e3m0() -> None:
    weight = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0))
    absmax = weight.abs().amax(dim=1, keepdim=True)
    # mean squared error over absmax, from an independent run with 200,000 blocks
    known = {"nf4": 13.0, "int4": 16.7, "fp4_e2m1": 17.3, "fp4": 22.4, "fp4_e3m0": 55.0}
    for name, expected in known.items():
        book = make_codebook(name)
        error = (dequantize(quantize(weight, book, blocksize=64), book) - weight) / absmax
        assert 1e4 * error.square().mean().item() == pytest.approx(expected, abs=0.5)


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'int9' has no codebook"):
        make_codebook("int9")


def test_levels_that_follow_the_block_size_are_not_given_without_one() -> None:
    with pytest.raises(ConfigError, match="'af4' depend on the block size"):
        make_codebook("af4")
