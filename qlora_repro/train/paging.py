"""Paged AdamW whose states survive a checkpoint and are freed at the end of a run.

bitsandbytes keeps optimizer states in memory that CUDA manages, so that they leave a full GPU and
come back when they are read (Section 3, paged optimizers). Its page manager never frees any, so the
states of a sweep's cells would pile up, and states read from a checkpoint become plain GPU tensors.
Both are mended here; nothing else differs.
"""

import ctypes
import gc
from typing import Any

import torch
from bitsandbytes import functional
from bitsandbytes.optim.adamw import AdamW
from bitsandbytes.optim.optimizer import GlobalOptimManager
from torch import Tensor, nn

from qlora_repro.config.schema import TrainConfig

PAGED_OPTIMIZERS = {"paged_adamw_32bit": 32, "paged_adamw_8bit": 8}  # name -> bits of a moment
PAGED_STATES = (
    "state1",
    "state2",
)  # the two moments; scales of 8-bit ones are too small
MIN_PAGED_VALUES = 100_000  # bitsandbytes pages no smaller state


class PagedAdamW(AdamW):
    """bitsandbytes' AdamW with states that stay paged when they are read from a checkpoint."""

    def __init__(self, params: Any, *, optim_bits: int, **settings: Any) -> None:
        super().__init__(params, optim_bits=optim_bits, is_paged=True, **settings)

    def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = False) -> None:
        """Read states from a checkpoint into pages, one at a time.

        Otherwise all would be on the GPU at once, as plain tensors, and a run that needed paging
        would run out of memory when it resumes.
        """
        super().load_state_dict(state_dict, move_to_device=False)
        for weight, state in self.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    state[name] = self._to_device(name, value, weight)

    def _to_device(self, name: str, value: Tensor, weight: Tensor) -> Tensor:
        if name not in PAGED_STATES or weight.numel() < MIN_PAGED_VALUES or not _on_gpu(weight):
            return value.to(weight.device)
        page: Tensor = functional.get_paged(*value.shape, dtype=value.dtype, device=weight.device)
        page.copy_(value)
        self.page_mng.paged_tensors.append(page)
        return page


def _on_gpu(weight: Tensor) -> bool:
    return weight.device.type == "cuda"


def choose_optimizer(
    cfg: TrainConfig, model: nn.Module, *, device: str
) -> tuple[type[PagedAdamW], dict[str, Any]] | None:
    """Return an optimizer class and its arguments for the Trainer; None: the one of cfg.optim.

    The Trainer sets weight decay itself, by groups of weights. Moments of embeddings that train
    stay in 32 bits, as with transformers.
    """
    if cfg.optim not in PAGED_OPTIMIZERS or device != "cuda":
        return None
    bits = PAGED_OPTIMIZERS[cfg.optim]
    if bits == 8:
        overrides = GlobalOptimManager.get_instance()
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.weight.requires_grad:
                overrides.register_module_override(module, "weight", {"optim_bits": 32})
    settings = {"lr": cfg.lr, "betas": (0.9, cfg.beta2), "eps": 1e-8, "optim_bits": bits}
    return PagedAdamW, settings


def paged_bytes() -> int:
    """Return the bytes of managed memory that paged states take, wherever their pages are."""
    return sum(page.nbytes for page in functional.GlobalPageManager.get_instance().paged_tensors)


def free_pages() -> int:
    """Free the managed memory of all paged states; return its bytes.

    Their optimizers must be gone: nothing may read the states afterwards.
    """
    manager = functional.GlobalPageManager.get_instance()
    pages, manager.paged_tensors = list(manager.paged_tensors), []
    if not pages:
        return 0
    torch.cuda.synchronize()  # a step may still be writing
    pointers = {page.data_ptr(): page.nbytes for page in pages}
    pages.clear()
    gc.collect()
    for pointer in pointers:
        _free_pointer(pointer)
    return sum(pointers.values())


def _free_pointer(pointer: int) -> None:
    """Free managed memory through bitsandbytes' CUDA runtime, which allocated it."""
    status = vars(functional)["lib"].cudaFree(ctypes.c_void_p(pointer))
    if status:
        raise RuntimeError(f"cudaFree of a paged optimizer state failed with status {status}")
