"""Which device a model goes to, and how memory is kept where that is a CPU."""

import ctypes
import re

import torch

from qlora_repro.errors import ConfigError
from qlora_repro.ranks import processes, processes_here, rank_here

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # glibc's numbers for mallopt
LARGE = 1 << 30  # bytes


def resolve_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:1` means on this machine.

    Raises ConfigError for another name, and for a GPU that is not there.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ConfigError(f"model.device is {name!r}, and must be auto, cpu, cuda or cuda:NUMBER")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else "; the installed torch has no CUDA at all"
        raise ConfigError(
            f"model.device={name} asks for CUDA and this machine offers none{built}; "
            "use model.device=cpu"
        )
    count, here = torch.cuda.device_count(), processes_here()
    if processes() > 1 and ":" in name:
        raise ConfigError(
            f"model.device={name} is one GPU, and {processes()} processes take one each; use "
            "model.device=cuda"
        )
    if here > count:
        raise ConfigError(
            f"{here} processes were started on this machine, and it has {count} GPUs for them; "
            f"start {count}, or use model.device=cpu"
        )
    number = int(name.partition(":")[2] or rank_here())
    if number >= count:
        raise ConfigError(
            f"model.device={name} is not there: the GPUs are numbered 0 to {count - 1}"
        )
    return torch.device("cuda", number)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next allocation, up to a gigabyte a piece.

    Each training step on a CPU frees its activations and takes as much again. By default glibc
    returns them to the kernel, which maps and clears every page anew: a tenth of the time and more.
    Does nothing where there is no glibc.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and library.mallopt(MMAP_THRESHOLD, LARGE):
        library.mallopt(TRIM_THRESHOLD, LARGE)


def return_freed_memory() -> None:
    """Give what is free back to the system, as between two cells of a sweep."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
