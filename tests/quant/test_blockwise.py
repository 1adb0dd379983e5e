import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qlora_repro.quant import blockwise
from qlora_repro.quant.bitsandbytes import reads_back_exactly
from qlora_repro.quant.blockwise import (
    dequantize,
    dequantize_packed,
    double_quantize,
    make_code_search,
    pack_codes,
    quantize,
    unpack_codes,
)
from qlora_repro.quant.codebooks import make_codebook
from qlora_repro.quant.fake_quant import round_trip

BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def bits(weight: Tensor) -> Tensor:
    """The bits of a weight but for the sign of zero, in which bitsandbytes' own kernels differ."""
    plain = (weight + 0.0).contiguous()  # -0 + 0 is 0
    return plain.view(torch.int32 if weight.element_size() == 4 else torch.int16)


def awkward(shape: tuple[int, int], *, seed: int, name: str, blocksize: int) -> Tensor:
    """Weights with a block of zeros, values on the edge between two levels, and an outlier."""
    rng = torch.Generator().manual_seed(seed)
    flat = torch.randn(shape[0] * shape[1], generator=rng) * 0.02
    flat[: min(blocksize, flat.numel() // 3)] = 0
    book = make_codebook(name)
    edges = (book[:-1] + book[1:]) / 2
    start = blocksize * 2
    for block in range(start, flat.numel() - blocksize, blocksize * 3):
        flat[block : block + len(edges)] = edges
        flat[block + len(edges)] = 1.0  # so that the absmax is 1 and the edges are hit exactly
    if seed % 2:
        flat[-1] = 7.0
    return flat.view(shape)


def of_bitsandbytes(weight: Tensor, *, name: str, blocksize: int, dq: bool) -> Tensor:
    packed, state = bnb.quantize_4bit(
        weight, blocksize=blocksize, quant_type=name, compress_statistics=dq
    )
    with torch.compiler.set_stance("force_eager"):  # rows of odd length take a compiled path
        return bnb.dequantize_4bit(packed, state)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    name=st.sampled_from(("nf4", "fp4")),
    blocksize=st.sampled_from(BLOCKSIZES),
    dtype=st.sampled_from(DTYPES),
    dq=st.booleans(),
    shape=st.tuples(st.integers(1, 67), st.integers(1, 131)),
    seed=st.integers(0, 9),
)
def test_nf4_and_fp4_read_as_in_bitsandbytes_to_the_bit(
    name: str, blocksize: int, dtype: torch.dtype, dq: bool, shape: tuple[int, int], seed: int
) -> None:
    if shape[1] % 16 == 0 and shape[1] % blocksize:  # where some CPUs misread: see the next test
        shape = (shape[0], shape[1] + 2)
    weight = awkward(shape, seed=seed, name=name, blocksize=blocksize).to(dtype)
    theirs = of_bitsandbytes(weight, name=name, blocksize=blocksize, dq=dq)
    ours = round_trip(weight, dtype=name, blocksize=blocksize, dq=dq)
    assert ours.dtype == weight.dtype
    assert ours.shape == weight.shape
    assert torch.equal(bits(ours), bits(theirs))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    name=st.sampled_from(("nf4", "fp4")),
    blocksize=st.sampled_from(BLOCKSIZES),
    columns=st.integers(1, 40).map(lambda n: 16 * n),
)
def test_the_rows_that_bitsandbytes_misreads_here_are_the_ones_that_are_refused(
    name: str, blocksize: int, columns: int
) -> None:
    weight = awkward((16, columns), seed=1, name=name, blocksize=blocksize)
    theirs = of_bitsandbytes(weight, name=name, blocksize=blocksize, dq=False)
    ours = round_trip(weight, dtype=name, blocksize=blocksize, dq=False)
    if reads_back_exactly(columns, name, blocksize, torch.float32, "cpu"):
        assert torch.equal(bits(ours), bits(theirs))
    else:
        assert weight.numel() <= blocksize or not torch.equal(ours, theirs)
        assert columns % blocksize


@pytest.mark.parametrize("dq", [False, True])
@pytest.mark.parametrize("blocksize", BLOCKSIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_every_setting_of_bitsandbytes_is_met_to_the_bit(
    name: str, dtype: torch.dtype, blocksize: int, dq: bool
) -> None:
    weight = awkward((15, 4096), seed=blocksize, name=name, blocksize=blocksize).to(dtype)
    theirs = of_bitsandbytes(weight, name=name, blocksize=blocksize, dq=dq)
    ours = round_trip(weight, dtype=name, blocksize=blocksize, dq=dq)
    assert torch.equal(bits(ours), bits(theirs))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(n=st.integers(1, 3000), spread=st.floats(1e-3, 10), seed=st.integers(0, 99))
def test_double_quantized_constants_are_those_of_bitsandbytes(
    n: int, spread: float, seed: int
) -> None:
    absmax = torch.rand(n, generator=torch.Generator().manual_seed(seed)) * spread
    offset = absmax.mean()
    codes, state = bnb.quantize_blockwise(absmax - offset, blocksize=256)
    ours = double_quantize(absmax)
    assert ours.offset == offset
    assert torch.equal(ours.absmax, state.absmax)
    if n > 1:  # a single constant is its own mean, and any code times zero is zero
        assert torch.equal(ours.codes, codes)
    assert torch.equal(ours.dequantize(), bnb.dequantize_blockwise(codes, state) + offset)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    name=st.sampled_from(("int4", "int8", "fp4_e2m1", "fp4_e3m0", "nf4", "af4")),
    blocksize=st.integers(1, 100),
    n=st.integers(0, 300),
    seed=st.integers(0, 99),
)
def test_every_weight_becomes_the_nearest_level_of_its_block(
    name: str, blocksize: int, n: int, seed: int
) -> None:
    weight, book = (
        torch.randn(n, generator=torch.Generator().manual_seed(seed)),
        make_codebook(name, blocksize=64),
    )
    read = dequantize(quantize(weight, book, blocksize=blocksize), book)
    for start in range(0, n, blocksize):
        block = weight[start : start + blocksize]
        levels = book * block.abs().max()
        nearest = (block[:, None] - levels).abs().amin(dim=1)
        error = (read[start : start + blocksize] - block).abs()
        assert (error <= nearest + 1e-6).all()


def test_halfway_between_two_levels_is_the_lower_one() -> None:
    book = make_codebook("nf4")
    edges = (book[:-1] + book[1:]) / 2
    weight = torch.cat([edges, torch.ones(1)])  # absmax 1
    codes = quantize(weight, book, blocksize=16).codes
    assert codes.tolist() == [*range(15), 15]


def test_zeros_stay_zeros() -> None:
    for dq in (False, True):
        read = round_trip(torch.zeros(3, 100), dtype="nf4", blocksize=64, dq=dq)
        assert read.abs().max() == 0


def test_working_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, book = (
        torch.randn(7, 111, generator=torch.Generator().manual_seed(0)),
        make_codebook("nf4"),
    )
    whole = quantize(weight, book, blocksize=48)
    read = dequantize(whole, book)
    monkeypatch.setattr(blockwise, "QUANTIZE_CHUNK", 100)
    parts = quantize(weight, book, blocksize=48)
    assert torch.equal(parts.codes, whole.codes)
    assert torch.equal(parts.absmax, whole.absmax)
    assert torch.equal(dequantize(parts, book), read)


def test_constants_are_counted_by_the_started_block() -> None:
    q = quantize(torch.randn(130), make_codebook("nf4"), blocksize=64)
    assert q.codes.shape == (130,)
    assert q.absmax.shape == (3,)
    second = double_quantize(torch.rand(257))
    assert second.codes.shape == (257,)
    assert second.absmax.shape == (2,)


def test_reading_in_another_dtype_rounds_once() -> None:
    weight, book = torch.randn(64).bfloat16(), make_codebook("nf4")
    q = quantize(weight, book, blocksize=64)
    exact = dequantize(q, book, dtype=torch.float32)
    assert exact.dtype == torch.float32
    assert torch.equal(dequantize(q, book), exact.bfloat16())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_and_counted(bad: float) -> None:
    weight = torch.randn(4, 64)
    weight[1, 2] = weight[3, 5] = bad
    with pytest.raises(ValueError, match="2 of 256 weights are NaN or infinite"):
        quantize(weight, make_codebook("nf4"), blocksize=64)


def test_a_block_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="blocksize is 0"):
        quantize(torch.randn(64), make_codebook("nf4"), blocksize=0)


def test_nothing_to_double_quantize_is_refused() -> None:
    with pytest.raises(ValueError, match="no quantization constants"):
        double_quantize(torch.empty(0))


@pytest.mark.parametrize("name", ["nf4", "fp4", "int8", "nf8", "fp8_e4m3", "dynamic8"])
def test_a_code_found_on_the_grid_is_the_one_a_search_finds(name: str) -> None:
    book = make_codebook(name)
    edges = (book[:-1] + book[1:]) / 2
    near = torch.cat([torch.nextafter(edges, torch.tensor(x)) for x in (-2.0, 2.0)])
    drawn = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    values = torch.cat([edges, near, drawn, torch.tensor([-1.0, 1.0, 0.0, -0.0, 1.0000001])])
    codes = torch.empty(len(values), dtype=torch.uint8)
    make_code_search(book, n=len(values))(values, codes)
    assert torch.equal(codes, torch.bucketize(values, edges).to(torch.uint8))


@pytest.mark.parametrize("shape", [(64, 64), (3, 21), (1, 1)])  # the latter two are odd
@pytest.mark.parametrize("torch_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", ["nf4", "fp4"])
def test_bytes_are_those_of_bitsandbytes(
    dtype: str, torch_dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch_dtype)
    weight[0, : shape[1] // 2] *= 1e-4  # zeros of either sign
    theirs, _ = bnb.quantize_4bit(weight, blocksize=64, quant_type=dtype)
    codes = quantize(weight, make_codebook(dtype), blocksize=64).codes
    assert torch.equal(pack_codes(codes, dtype=dtype), theirs.view(-1))


@pytest.mark.parametrize("dtype", ["nf4", "fp4", "int4", "af4"])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 1000])
def test_unpacking_gives_the_codes_back(dtype: str, n: int) -> None:
    codes = torch.randint(0, 16, (n,), dtype=torch.uint8)
    packed = pack_codes(codes, dtype=dtype)
    assert packed.numel() == (n + 1) // 2
    assert torch.equal(unpack_codes(packed, n=n, dtype=dtype), codes)


def test_what_is_not_4_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="a code is 16, and must be at most 15"):
        pack_codes(torch.tensor([3, 16], dtype=torch.uint8), dtype="nf4")
    with pytest.raises(ValueError, match="2 bytes hold 4 codes or one fewer, not 5"):
        unpack_codes(torch.zeros(2, dtype=torch.uint8), n=5, dtype="nf4")


@pytest.mark.parametrize("blocksize", [64, 7, 50])
@pytest.mark.parametrize("dtype", ["nf4", "fp4", "int4"])
def test_packed_codes_read_as_unpacked_ones_to_the_bit(dtype: str, blocksize: int) -> None:
    weight = torch.randn(201, 1001, generator=torch.Generator().manual_seed(0)).bfloat16()
    book = make_codebook(dtype)
    q = quantize(weight, book, blocksize=blocksize)
    read = dequantize_packed(replace(q, codes=pack_codes(q.codes, dtype=dtype)), book, dtype=dtype)
    assert torch.equal(read.view(torch.int16), dequantize(q, book).view(torch.int16))


def test_an_error_in_one_piece_is_raised_and_the_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    weight = torch.randn(1 << 19)
    weight[-1] = torch.inf
    with pytest.raises(ValueError, match="1 of 524288 weights are NaN or infinite"):
        quantize(weight, make_codebook("nf4"), blocksize=64)
    assert torch.get_num_threads() == before


MEASURE = """
import re, resource, sys, torch
from qlora_repro.quant.blockwise import quantize
from qlora_repro.quant.codebooks import make_codebook

def resident(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

book = make_codebook("nf4")
quantize(torch.randn(1 << 18).bfloat16(), book, blocksize=64)
weight = torch.empty(1 << 26, dtype=torch.bfloat16).normal_()
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
before = resident("VmRSS")
quantize(weight, book, blocksize=64)
print((resident("VmHWM") - before) / weight.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_quantizing_takes_less_than_the_tensor_again_codes_included() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    # the codes alone, a byte each, take half of a bf16 tensor
    assert 0.5 < float(done.stdout) < 1.0
