import pytest
import torch

from qlora_repro.quant.blockwise import make_code_search
from qlora_repro.quant.codebooks import make_codebook


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
