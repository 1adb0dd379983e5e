"""Memory in training: activation checkpointing, the peak, and what to say when there is too little.

The installed transformers names checkpointing: gradient_checkpointing before 5.23, and since then
activation_checkpointing.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import distributed, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments

from qlora_repro.errors import OutOfMemory, is_out_of_memory
from qlora_repro.train.paging import paged_bytes

NEW_NAME, OLD_NAME = "activation_checkpointing", "gradient_checkpointing"
ADAM_STATE_BYTES = 8  # of a trained parameter: two moments in 32 bits


def checkpointing_arguments(enabled: bool) -> dict[str, Any]:
    """Return the Trainer's arguments that compute activations a second time to save memory."""
    is_new = NEW_NAME in {field.name for field in fields(TrainingArguments)}
    name = NEW_NAME if is_new else OLD_NAME
    return {name: enabled, f"{name}_kwargs": {"use_reentrant": False}}


def disable_checkpointing(model: PreTrainedModel) -> None:
    """Let a model keep every activation again."""
    name = NEW_NAME if hasattr(model, f"{NEW_NAME}_disable") else OLD_NAME
    getattr(model, f"{name}_disable")()


class PeakMemory(TrainerCallback):
    """The most memory in use since training began."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        # all cards that this process may use: a model may be spread over them
        self.cards = range(torch.cuda.device_count() if self.on_gpu else 0)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start counting."""
        for card in self.cards:
            torch.cuda.reset_peak_memory_stats(card)

    def paged_bytes(self) -> int | None:
        """Return the bytes of managed memory, which the allocator does not count; None on a CPU."""
        return paged_bytes() if self.on_gpu else None

    def peak_bytes(self) -> int:
        """Return the peak: of CUDA's allocator, or the resident set of the process on a CPU.

        Of a model that is spread over cards it is the sum of their peaks.
        """
        if self.on_gpu:
            return sum(int(torch.cuda.max_memory_allocated(card)) for card in self.cards)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available_bytes(device: torch.device, *, reserve: float) -> int | None:
    """Return what a run can have of its GPU, its model included; None on a CPU.

    In several processes, which must have met before, it is the least of their GPUs, so that all
    choose alike.

    Args:
        device: Where the run computes.
        reserve: GB that go to no tensor.
    """
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    available = free + torch.cuda.memory_reserved(device)
    least = torch.tensor(min(available, round(total - reserve * 1e9)), device=device)
    if distributed.is_initialized():
        distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
    return int(least)


def fixed_bytes(model: nn.Module) -> int:
    """Return what training takes whatever the batch: weights, gradients and optimizer states."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    return weights + sum(p.numel() * (p.element_size() + ADAM_STATE_BYTES) for p in trained)


@contextmanager
def explain_out_of_memory(model: nn.Module, micro_batch_size: int) -> Iterator[None]:
    """Turn an out-of-memory error into one sentence with the estimate and what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory: weights, gradients and optimizer states take "
            f"{fixed_bytes(model) / 1e9:.2f} GB before any activation; lower "
            f"train.micro_batch_size (now {micro_batch_size}), data.max_source_len and "
            "data.max_target_len, or lora.r, and set train.gradient_checkpointing=true"
        ) from error
