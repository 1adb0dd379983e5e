"""Memory for a large result, in pages large enough that touching them first costs little."""

import contextlib
import mmap

import torch
from torch import Tensor

HUGE = 1 << 21  # bytes of a huge page on x86-64 and most of ARM
LEAST = 2 * HUGE  # bytes; a smaller result has too few whole ones in it


def empty(n: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (n,) uninitialized values, in huge pages where the kernel lends them.

    A fresh tensor is mapped page by page as it is written to: the 8,192 pages of a 4096 x 4096 bf16
    result take longer than dequantizing into them. The memory goes back when the tensor does.
    """
    size = n * dtype.itemsize
    if device.type != "cpu" or size < LEAST or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(n, dtype=dtype, device=device)
    held = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them: plain pages do
        held.madvise(mmap.MADV_HUGEPAGE)
    start = -torch.frombuffer(held, dtype=torch.uint8).data_ptr() % HUGE
    return torch.frombuffer(memoryview(held)[start : start + size], dtype=dtype)
