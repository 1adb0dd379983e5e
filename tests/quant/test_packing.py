from dataclasses import replace

import bitsandbytes.functional as bnb
import pytest
import torch

from qlora_repro.quant.blockwise import (
    dequantize,
    dequantize_packed,
    pack_codes,
    quantize,
    unpack_codes,
)
from qlora_repro.quant.codebooks import make_codebook


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
