import pytest
import torch

from qlora_repro.quant.blockwise import finder, reader
from qlora_repro.quant.codebooks import codebook


@pytest.mark.parametrize("name", ["nf4", "fp4", "int8", "nf8", "fp8_e4m3", "dynamic8"])
def test_a_code_found_on_the_grid_is_the_one_a_search_finds(name: str) -> None:
    book = codebook(name)
    edges = (book[:-1] + book[1:]) / 2
    near = torch.cat([torch.nextafter(edges, torch.tensor(x)) for x in (-2.0, 2.0)])
    drawn = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    values = torch.cat([edges, near, drawn, torch.tensor([-1.0, 1.0, 0.0, -0.0, 1.0000001])])
    codes = torch.empty(len(values), dtype=torch.uint8)
    finder(book, n=len(values))(values, codes)
    assert torch.equal(codes, torch.bucketize(values, edges).to(torch.uint8))


@pytest.mark.parametrize("name", ["nf4", "fp4", "int4", "int8"])
@pytest.mark.parametrize("n", [10, 50_000, 50_001])
def test_a_level_read_through_pairs_is_the_codes_own(name: str, n: int) -> None:
    book = codebook(name)
    codes = torch.randint(0, len(book), (n,), dtype=torch.uint8)
    assert torch.equal(reader(book, n=n)(codes), book[codes.int()])
