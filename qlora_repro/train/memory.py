"""Activation checkpointing, by the name the installed transformers has: gradient_… before 5.23.

Peak memory of a run, and the sentence for when there was not enough.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import distributed, nn
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from qlora_repro.errors import LackOfMemory
from qlora_repro.train.paging import paged_bytes

NEW, OLD = "activation_checkpointing", "gradient_checkpointing"


def checkpointing_arguments(enabled: bool) -> dict[str, Any]:
    """Return the Trainer's arguments that compute activations a second time to save memory."""
    name = NEW if NEW in {field.name for field in fields(TrainingArguments)} else OLD
    return {name: enabled, f"{name}_kwargs": {"use_reentrant": False}}


def disable_checkpointing(model: PreTrainedModel) -> None:
    """Keep every activation of a model again."""
    name = NEW if hasattr(model, f"{NEW}_disable") else OLD
    getattr(model, f"{name}_disable")()


LACK = ("out of memory", "can't allocate memory", "Cannot allocate memory")
ADAM_STATE = 8  # bytes a trained parameter: two moments in 32 bits


class MemoryPeak(TrainerCallback):
    """The most memory in use since training began."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start counting."""
        for card in self._cards():
            torch.cuda.reset_peak_memory_stats(card)

    def paged(self) -> int | None:
        """Return the bytes of managed memory, which the allocator does not count; None on a CPU."""
        return paged_bytes() if self.device.type == "cuda" else None

    def bytes(self) -> int:
        """Return the peak: CUDA's allocator, or the resident set of the whole process on a CPU.

        Of a model that is spread over cards it is the sum of their peaks.
        """
        if self.device.type == "cuda":
            return sum(int(torch.cuda.max_memory_allocated(card)) for card in self._cards())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _cards(self) -> range:
        """Return the numbers of the cards that this process may use; none on a CPU."""
        return range(torch.cuda.device_count() if self.device.type == "cuda" else 0)


def free_bytes(device: torch.device, *, reserve: float) -> int | None:
    """Return what a run can have of its GPU, its model included; None on a CPU.

    `reserve` GB go to no tensor. In several processes it is the least of their GPUs, so that all
    choose alike; they have met before.
    """
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    ours = free + torch.cuda.memory_reserved(device)
    least = torch.tensor(min(ours, round(total - reserve * 1e9)), device=device)
    if distributed.is_initialized():
        distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
    return int(least)


def fixed_bytes(model: nn.Module) -> int:
    """Bytes that training holds whatever the batch: weights, gradients and optimizer states."""
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    return held + sum(p.numel() * (p.element_size() + ADAM_STATE) for p in trained)


@contextmanager
def naming_lack_of_memory(model: nn.Module, micro_batch_size: int) -> Iterator[None]:
    """Turn an out-of-memory error into one sentence with the estimate and what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        named = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not named and not any(word in str(error) for word in LACK):
            raise
        raise LackOfMemory(
            f"out of memory: weights, gradients and optimizer states take "
            f"{fixed_bytes(model) / 1e9:.2f} GB before any activation; lower "
            f"train.micro_batch_size (now {micro_batch_size}), data.max_source_len and "
            "data.max_target_len, or lora.r, and set train.gradient_checkpointing=true"
        ) from error
