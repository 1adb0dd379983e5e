"""Which device a model goes to, and how memory is kept where that is a CPU."""

import ctypes

import torch

from qlora_repro.errors import ConfigError
from qlora_repro.ranks import processes_here, rank_here
from qlora_repro.stages import SPREAD as SPREAD
from qlora_repro.stages import check_device_name

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # glibc's numbers for mallopt
LARGE = 1 << 30  # bytes
DRIVERS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}  # the least for a CUDA version


def resolve_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means to this process.

    With `spread` it is the first of the cards that share the model: inputs go there. Raises
    ConfigError for another name, and for a GPU that is not there.
    """
    check_device_name(name)
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"model.device={name} asks for CUDA, and {why_no_gpu()}; use model.device=cpu"
        )
    count, here = torch.cuda.device_count(), processes_here()
    if here > count:
        raise ConfigError(
            f"{here} processes were started on this machine, and it has {count} GPUs for them; "
            f"start {count}, or use model.device=cpu"
        )
    return torch.device("cuda", 0 if name == SPREAD else rank_here())


def why_no_gpu() -> str:
    """Return what the installed torch would need to see a GPU."""
    version = torch.version.cuda
    if version is None:
        return f"the installed torch {torch.__version__} is a build without CUDA"
    needs = DRIVERS.get(version.partition(".")[0])
    driver = f", which needs an NVIDIA driver of at least {needs}" if needs else ""
    return f"torch sees no GPU: it is built for CUDA {version}{driver} (nvidia-smi shows yours)"


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
