"""Paged optimizer states, moved between a GPU and the host on demand, to time the moves."""

import ctypes

import torch
from bitsandbytes import functional
from torch import Tensor

HOST = 2  # cudaMemLocationTypeHost
CPU = -1  # cudaCpuDeviceId, the host's name before CUDA 13


def move_pages(*, to_host: bool) -> int:
    """Move every paged state to the host's memory, or to its GPU; return the bytes that moved.

    To the GPU by bitsandbytes' prefetch, as its step does it. Its prefetch to the host asks for the
    properties of device -1 and ends the process (0.50.2, csrc/pythonInterface.cpp), so the CUDA
    runtime is asked here. Returns once the pages are there.
    """
    pages = list(functional.GlobalPageManager.get_instance().paged_tensors)
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


def _prefetch_to_host(page: Tensor) -> None:
    """Move the pages of one tensor to the host's memory; raises RuntimeError where CUDA refuses."""
    runtime, version = vars(functional)["lib"], ctypes.c_int()
    runtime.cudaRuntimeGetVersion(ctypes.byref(version))
    pointer, size, stream = ctypes.c_void_p(page.data_ptr()), ctypes.c_size_t(page.nbytes), None
    if version.value >= 13000:
        host = (_Location(HOST, 0), ctypes.c_uint(0))
        status = runtime.cudaMemPrefetchAsync(pointer, size, *host, ctypes.c_void_p(stream))
    else:
        status = runtime.cudaMemPrefetchAsync(pointer, size, CPU, ctypes.c_void_p(stream))
    if status:
        raise RuntimeError(f"cudaMemPrefetchAsync to the host failed with status {status}")
