"""A paged AdamW that gives its pages back, and gets them again when a run is taken up.

bitsandbytes keeps optimizer states in memory that CUDA manages, so that they leave a full GPU and
come back when they are read (Section 3, paged optimizers). Its page manager never frees any, so the
states of every cell of a sweep would pile up, and states that are read from a checkpoint become
plain GPU tensors. Both are mended here. An unpaged state is what it was: nothing else differs.
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

PAGED = {"paged_adamw_32bit": 32, "paged_adamw_8bit": 8}  # name -> bits of a moment
STATES = ("state1", "state2")  # the two moments, which page; scales of 8-bit ones are small
LEAST = 100_000  # values; bitsandbytes pages no smaller state


class PagedAdamW(AdamW):
    """bitsandbytes' AdamW with paged states that outlive a checkpoint and no cell."""

    def __init__(self, params: Any, *, optim_bits: int, **settings: Any) -> None:
        super().__init__(params, optim_bits=optim_bits, is_paged=True, **settings)

    def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = False) -> None:
        """Read states from a checkpoint into pages, one at a time.

        Without this they would all be on the GPU at once, as plain tensors: a run that needed
        paging would end for lack of memory when it is taken up.
        """
        super().load_state_dict(state_dict, move_to_device=False)
        for weight, state in self.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    state[name] = self._placed(name, value, weight)

    def _placed(self, name: str, value: Tensor, weight: Tensor) -> Tensor:
        if name not in STATES or weight.numel() < LEAST or not _on_gpu(weight):
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
    """Return the optimizer class and its arguments for the Trainer; None: as its name says.

    Weight decay is the Trainer's own, by groups of weights. Moments of embeddings, where these
    train, stay in 32 bits, as transformers has them.
    """
    if cfg.optim not in PAGED or device != "cuda":
        return None
    bits = PAGED[cfg.optim]
    if bits == 8:
        overrides = GlobalOptimManager.get_instance()
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.weight.requires_grad:
                overrides.register_module_override(module, "weight", {"optim_bits": 32})
    settings = {"lr": cfg.lr, "betas": (0.9, cfg.beta2), "eps": 1e-8, "optim_bits": bits}
    return PagedAdamW, settings


def paged_tensors() -> list[Tensor]:
    """Return the paged tensors that bitsandbytes' page manager knows of."""
    return list(functional.GlobalPageManager.get_instance().paged_tensors)


def paged_bytes() -> int:
    """Return the bytes of managed memory that paged states take, wherever their pages are."""
    return sum(tensor.nbytes for tensor in paged_tensors())


def move_pages(*, to_host: bool) -> int:
    """Move every paged state to the host's memory, or to its GPU; return the bytes that moved.

    To the GPU by bitsandbytes' prefetch, as its step does it. Its prefetch to the host asks for the
    properties of device -1 and ends the process (0.50.2, csrc/pythonInterface.cpp), so the CUDA
    runtime is asked here. Returns once the pages are there.
    """
    pages = paged_tensors()
    for page in pages:
        if to_host:
            _prefetch_to_host(page)
        else:
            functional.prefetch_tensor(page)
    torch.cuda.synchronize()
    return sum(page.nbytes for page in pages)


class _Location(ctypes.Structure):
    """cudaMemLocation."""

    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


HOST = 2  # cudaMemLocationTypeHost
CPU = -1  # cudaCpuDeviceId, the host's name before CUDA 13


def _prefetch_to_host(page: Tensor) -> None:
    """Move the pages of one tensor to the host's memory; raises RuntimeError where CUDA refuses."""
    runtime, version = _runtime(), ctypes.c_int()
    runtime.cudaRuntimeGetVersion(ctypes.byref(version))
    pointer, size, stream = ctypes.c_void_p(page.data_ptr()), ctypes.c_size_t(page.nbytes), None
    if version.value >= 13000:
        host = (_Location(HOST, 0), ctypes.c_uint(0))
        status = runtime.cudaMemPrefetchAsync(pointer, size, *host, ctypes.c_void_p(stream))
    else:
        status = runtime.cudaMemPrefetchAsync(pointer, size, CPU, ctypes.c_void_p(stream))
    if status:
        raise RuntimeError(f"cudaMemPrefetchAsync to the host failed with status {status}")


def _runtime() -> Any:
    """Return the CUDA runtime that bitsandbytes is linked to, in which its pages were allocated."""
    return vars(functional)["lib"]


def free_pages() -> int:
    """Free the managed memory of all paged states; return its bytes.

    The optimizers that they belong to must be gone: nothing may read them afterwards.
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
        _free(pointer)
    return sum(pointers.values())


def _free(pointer: int) -> None:
    """Give managed memory back through the CUDA runtime that bitsandbytes allocated it with."""
    status = _runtime().cudaFree(ctypes.c_void_p(pointer))
    if status:
        raise RuntimeError(f"cudaFree of a paged optimizer state failed with status {status}")
