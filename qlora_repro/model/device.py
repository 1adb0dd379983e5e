"""Where a model is: its device, the cards it is spread over, and memory that a CPU keeps.

A model spread over the cards of a machine has a run of its blocks on each, in their order. Each
card computes its blocks and hands on the hidden states, so one card works at a time: it makes room,
not speed. Inputs go to the first card, and the outputs come back there.
"""

import ctypes
from collections.abc import Collection, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from accelerate import infer_auto_device_map
from accelerate.utils import CustomDtype, get_balanced_memory, send_to_device
from torch import nn

from qlora_repro.config.validate import SPREAD
from qlora_repro.distributed.environment import local_rank, local_world_size
from qlora_repro.errors import ConfigError, ModelError

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # glibc's numbers for mallopt
LARGEST_KEPT_BYTES = 1 << 30
# the least driver for a CUDA version
MIN_DRIVERS = {"11": "450.80.02", "12": "525.60.13", "13": "580.65.06"}


def resolve_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` means to this process.

    With `spread` it is the first of the cards that share the model: inputs go there.

    Raises:
        ConfigError: there is no such GPU.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"model.device={name} asks for CUDA, and {explain_missing_gpu()}; use model.device=cpu"
        )
    count, processes = torch.cuda.device_count(), local_world_size()
    if processes > count:
        raise ConfigError(
            f"{processes} processes were started on this machine, and it has {count} GPUs for "
            f"them; start {count}, or use model.device=cpu"
        )
    return torch.device("cuda", 0 if name == SPREAD else local_rank())


def explain_missing_gpu() -> str:
    """Return what the installed torch would need to see a GPU."""
    version = torch.version.cuda
    if version is None:
        return f"the installed torch {torch.__version__} is a build without CUDA"
    needs = MIN_DRIVERS.get(version.partition(".")[0])
    driver = f", which needs an NVIDIA driver of at least {needs}" if needs else ""
    return f"torch sees no GPU: it is built for CUDA {version}{driver} (nvidia-smi shows yours)"


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next allocation, up to a gigabyte a piece.

    Each training step on a CPU frees its activations and takes as much again. By default glibc
    returns them to the kernel, which maps and clears every page anew: a tenth of the time and more.
    Does nothing where there is no glibc.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and library.mallopt(MMAP_THRESHOLD, LARGEST_KEPT_BYTES):
        library.mallopt(TRIM_THRESHOLD, LARGEST_KEPT_BYTES)


def release_freed_memory() -> None:
    """Give what is free back to the system, as between two cells of a sweep."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# As bitsandbytes packs them.
PACKED_DTYPES = {"nf4": CustomDtype.INT4, "fp4": CustomDtype.INT4, "int8": torch.int8}


def free_bytes_by_card() -> dict[int, int]:
    """Return what each card that this process sees has free, by the card's number."""
    cards = range(torch.cuda.device_count())
    unused = (torch.cuda.memory_reserved(n) - torch.cuda.memory_allocated(n) for n in cards)
    return {n: torch.cuda.mem_get_info(n)[0] + more for n, more in zip(cards, unused, strict=True)}


def build_device_map(
    empty: Any, cards: Mapping[int, int], *, name: str, quantized: Collection[str], dtype: str
) -> dict[str, int]:
    """Return module -> card, for weights in equal shares, blocks undivided and in their order.

    `empty` is the model on the meta device, in the dtype that is not quantized; bitsandbytes holds
    the layers in `quantized` as `dtype`; `cards` says how many bytes each card has free. Equal
    shares leave each card the same room for activations. `name` is for the error.

    Raises:
        ConfigError: the weights do not fit; it gives the sizes.
        ModelError: the architecture does not say what its blocks are.
    """
    blocks = list(getattr(empty, "_no_split_modules", None) or ())
    if not blocks:
        raise ModelError(
            f"a {type(empty).__name__} does not say which of its modules are blocks, and "
            "model.device=spread gives each card whole ones; use model.device=cuda"
        )
    packed = {f"{layer}.weight": PACKED_DTYPES[dtype] for layer in quantized}
    fixed: dict[str, Any] = {"no_split_module_classes": blocks, "special_dtypes": packed}
    room = get_balanced_memory(empty, max_memory=dict(cards), **fixed)
    device_map: dict[str, Any] = infer_auto_device_map(empty, max_memory=room, **fixed)
    if set(device_map.values()) - set(cards):  # on the CPU or the disk
        widths = {CustomDtype.INT4: 0.5, torch.int8: 1}  # bytes
        size = sum(
            weight.numel() * (widths[packed[key]] if key in packed else weight.element_size())
            for key, weight in empty.named_parameters()
        )
        free = ", ".join(f"{free / 1e9:.2f}" for free in cards.values())
        raise ConfigError(
            f"the weights of {name} take {size / 1e9:.2f} GB as dtype={dtype}, and do not fit on "
            f"the cards of this machine ({len(cards)}), which have {free} GB free; use more "
            f"cards{'' if packed else ', dtype=nf4'} or a smaller model"
        )
    return device_map


def move_outputs_early(model: Any) -> None:
    """Move hidden states to the next card at the end of a card's last block.

    Otherwise they would be moved inside of the next card's first block. Checkpointing computes a
    block twice, and draws its dropout anew from the random states of the cards its inputs are on.
    """
    names = set(model._no_split_modules or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    for block, following in pairwise(blocks):
        this_device, next_device = (next(b.parameters()).device for b in (block, following))
        if this_device != next_device:
            block.register_forward_hook(partial(_send_output, next_device))


def _send_output(device: torch.device, module: nn.Module, inputs: Any, output: Any) -> Any:
    return send_to_device(output, device)
