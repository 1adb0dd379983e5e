"""Memory for results of many megabytes, in large pages where the kernel lends them."""

import ctypes
import mmap

import torch
from torch import Tensor

LEAST = 1 << 22  # bytes; below it large pages are not worth a call to the kernel


def empty(n: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (n,) uninitialized values, in huge pages where the kernel lends them.

    Fresh memory is mapped page by page as it is written to: the 8,192 pages of a 4096 x 4096 bf16
    result take longer than dequantizing into them. Memory that is mapped already stays as it is.
    """
    made = torch.empty(n, dtype=dtype, device=device)
    size, start = made.nbytes, made.data_ptr()
    if device.type == "cpu" and size >= LEAST and hasattr(mmap, "MADV_HUGEPAGE"):
        begin = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE - begin
        advise = ctypes.CDLL(None).madvise  # a kernel without huge pages refuses: plain ones do
        advise(ctypes.c_void_p(begin), ctypes.c_size_t(whole), mmap.MADV_HUGEPAGE)
    return made
