"""Paged states: freed at the end of a run, and paged again when a run is taken up.

CUDA's managed memory is stood in for by plain memory that is marked as paged: what is tested is
who holds it, not where its pages lie. tests/gpu/test_gpu_prefetch.py moves real pages.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional
from torch import Tensor, nn

from qlora_repro.train import paging
from qlora_repro.train.paging import PagedAdamW, free_pages, paged_bytes

N = 400  # 160,000 values: bitsandbytes pages no fewer than 100,000


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stand in for managed memory; return the pointers that are freed."""
    pointers: list[int] = []

    def get_paged(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        page: Any = torch.zeros(*shape, dtype=dtype)
        page.is_paged, page.page_deviceid = True, 0
        return page

    monkeypatch.setattr(functional, "get_paged", get_paged)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(paging, "_free_pointer", pointers.append)
    monkeypatch.setattr(paging, "_on_gpu", lambda weight: True)
    functional.GlobalPageManager.get_instance().paged_tensors.clear()
    return pointers


def stepped() -> tuple[nn.Parameter, PagedAdamW]:
    """Return a weight and its optimizer with states as a step on a GPU leaves them."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(N, N))
    optimizer = PagedAdamW([weight], lr=0.1, betas=(0.9, 0.999), eps=1e-8, optim_bits=32)
    for name in ("state1", "state2"):
        page = functional.get_paged(N, N, dtype=torch.float32, device=weight.device)
        page.copy_(torch.randn(N, N))
        optimizer.page_mng.paged_tensors.append(page)
        optimizer.state[weight][name] = page
    optimizer.state[weight]["step"] = 1
    return weight, optimizer


def test_states_from_a_checkpoint_are_paged_again(freed: list[int], tmp_path: Path) -> None:
    weight, optimizer = stepped()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    before = {name: optimizer.state[weight][name].clone() for name in ("state1", "state2")}
    del optimizer
    assert free_pages() == 2 * 4 * N * N
    assert len(freed) == 2
    again = PagedAdamW([weight], lr=0.1, betas=(0.9, 0.999), eps=1e-8, optim_bits=32)
    again.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for name, value in before.items():
        state = again.state[weight][name]
        assert state.is_paged
        assert torch.equal(state, value)
    assert again.state[weight]["step"] == 1
    assert paged_bytes() == 2 * 4 * N * N


def test_pages_do_not_pile_up_over_cells(freed: list[int]) -> None:
    for cell in range(1, 4):
        stepped()
        assert paged_bytes() == 2 * 4 * N * N
        free_pages()
        assert paged_bytes() == 0
        assert len(freed) == 2 * cell
