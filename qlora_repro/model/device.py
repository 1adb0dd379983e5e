"""Which device a model goes to, and how memory is kept where that is a CPU.

One model spread over the cards of a machine: its blocks in their order, a run of them a card.

Each card computes its blocks and hands on the hidden states, so one card works at a time: it makes
room, not speed. Inputs go to the first card, and the outputs come back there.
"""

import ctypes
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

import torch
from accelerate import infer_auto_device_map
from accelerate.utils import CustomDtype, get_balanced_memory, send_to_device
from torch import nn

from qlora_repro.config.validate import SPREAD, check_device_name
from qlora_repro.distributed.environment import processes_here, rank_here
from qlora_repro.errors import ConfigError, ModelError

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


HELD_IN = {"nf4": CustomDtype.INT4, "fp4": CustomDtype.INT4, "int8": torch.int8}  # by bitsandbytes


def free_by_card() -> dict[int, int]:
    """Return what each card that this process sees has free, by the card's number."""
    cards = range(torch.cuda.device_count())
    unused = (torch.cuda.memory_reserved(n) - torch.cuda.memory_allocated(n) for n in cards)
    return {n: torch.cuda.mem_get_info(n)[0] + more for n, more in zip(cards, unused, strict=True)}


def spread_map(
    empty: Any, cards: Mapping[int, int], *, name: str, quantized: Collection[str], dtype: str
) -> dict[str, int]:
    """Return module -> card, for weights in equal shares, blocks whole and in their order.

    `empty` is the model on the meta device, in the dtype that is not quantized; bitsandbytes holds
    the layers in `quantized` as `dtype`; `cards` says how many bytes each card has free. Equal
    shares leave each card the same room for activations. `name` is for the error.

    Raises ConfigError, with the sizes, for weights that do not fit, and ModelError for an
    architecture that does not say what its blocks are.
    """
    whole = set(getattr(empty, "_no_split_modules", None) or ())
    if not whole:
        raise ModelError(
            f"a {type(empty).__name__} does not say which of its modules are blocks, and "
            "model.device=spread gives each card whole ones; use model.device=cuda"
        )
    held = {f"{layer}.weight": HELD_IN[dtype] for layer in quantized}
    room = get_balanced_memory(
        empty, max_memory=dict(cards), no_split_module_classes=list(whole), special_dtypes=held
    )
    places: dict[str, Any] = infer_auto_device_map(
        empty, max_memory=room, no_split_module_classes=list(whole), special_dtypes=held
    )
    if set(places.values()) - set(cards):  # on the CPU or the disk
        sizes = {weight: p.numel() * p.element_size() for weight, p in empty.named_parameters()}
        widths = {CustomDtype.INT4: 0.5, torch.int8: 1}
        packed = {w: empty.get_parameter(w).numel() * widths[kind] for w, kind in held.items()}
        free = ", ".join(f"{size / 1e9:.2f}" for size in cards.values())
        raise ConfigError(
            f"the weights of {name} take {sum((sizes | packed).values()) / 1e9:.2f} GB as "
            f"dtype={dtype}, and do not fit on the cards of this machine ({len(cards)}), which "
            f"have {free} GB free; use more cards{'' if held else ', dtype=nf4'} or a smaller model"
        )
    return places


def hand_over_early(model: Any) -> None:
    """Move hidden states to the next card at the end of a card's last block.

    Otherwise they would be moved inside of the next card's first block. Checkpointing computes a
    block twice, and draws its dropout anew from the random states of the cards its inputs are on.
    """
    names = set(model._no_split_modules or ())
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    for block, following in pairwise(blocks):
        here, there = (next(module.parameters()).device for module in (block, following))
        if here != there:
            block.register_forward_hook(_moving_to(there))


def _moving_to(device: torch.device) -> Any:
    def move(module: nn.Module, inputs: Any, output: Any) -> Any:
        return send_to_device(output, device)

    return move
