"""A paged optimizer on a device with no room left: training goes on, and ends the same.

Managed memory then exceeds what is free, which can hang a GPU that others share: it is for a card
of one's own, python -m pytest -n 0 -m gpu --oversubscribe tests/gpu/test_gpu_paging.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from plain_training import TRAIN
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from qlora_repro.data.collators import causal_collator
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.train.trainer import TrainingInputs, train_model

# bitsandbytes pages a state of 100,000 values and more, which each matrix of these adapters has
R, HIDDEN, INNER, BLOCKS = 512, 1024, 2048, 2
PIECE = 1 << 21  # bytes: pages of CUDA's allocator
ROOM = 100 << 20  # bytes left to torch for a step's gradients and saved activations
SPARE = 24 << 20  # bytes left to CUDA for pages that are moved; with ROOM less than the states
STEPS, MICRO_BATCH = 8, 4
FILLED_AT = 3  # the states are there from the end of the first step on


class Fill(TrainerCallback):
    """After a few steps, take all that the device has but for a little."""

    def __init__(self) -> None:
        self.ballast: list[Tensor] = []
        self.paged: list[Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step != FILLED_AT:
            return
        held = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"]).state.values()
        states = [s[name] for s in held for name in ("state1", "state2") if name in s]
        self.paged = [tensor for tensor in states if getattr(tensor, "is_paged", False)]
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        room = torch.empty(ROOM, dtype=torch.uint8, device="cuda")
        spare = torch.empty(SPARE, dtype=torch.uint8, device="cuda")
        for size in (1 << 30, 1 << 26, PIECE):  # large pieces first, then what fits in between
            self._take(size)
        del spare
        torch.cuda.empty_cache()
        del room  # stays with torch's allocator

    def _take(self, size: int) -> None:
        while True:
            try:
                self.ballast.append(torch.ones(size, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError:
                return


def adapted() -> PeftModel:
    torch.manual_seed(0)
    config = LoraConfig(r=R, lora_alpha=16, target_modules="all-linear")
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": BLOCKS}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 128}
    base = LlamaForCausalLM(LlamaConfig(**sizes, **heads, pad_token_id=2))
    return get_peft_model(base, config).to("cuda" if torch.cuda.is_available() else "cpu")


def weights(model: PeftModel) -> dict[str, Tensor]:
    return {n: p.detach().cpu().clone() for n, p in model.named_parameters() if p.requires_grad}


def trained(
    optim: str, rows: list[EncodedExample], folder: Path, watch: list[Any]
) -> Mapping[str, Tensor]:
    """Train a fresh adapter; return its weights."""
    cfg = replace(
        TRAIN,
        optim=optim,
        lr=1e-4,
        micro_batch_size=MICRO_BATCH,
        max_steps=STEPS,
        group_by_length=False,
        save_steps=0,
    )
    model = adapted()
    job = TrainingInputs(
        rows=rows,
        collate=causal_collator(2, trims_logits=True),
        compute_dtype="float32",
        seed=0,
        folder=folder,
        callbacks=watch,
    )
    result = train_model(model, job, cfg=cfg)
    assert len(result.steps) == STEPS
    return weights(model)


def test_the_room_that_is_left_holds_gradients_and_saved_activations(
    rows: list[EncodedExample],
) -> None:
    """On a CPU: what a step allocates is the same there, but for workspaces of CUDA's libraries."""
    model = adapted()
    longest = sorted(rows, key=lambda row: len(row.ids))[-MICRO_BATCH:]
    held = {parameter.data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in held:
            saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row.ids) for row in longest], batch_first=True
    )
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        logits = model(ids.to(model.device)).logits
    logits.sum().backward()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    states = 2 * gradients
    activations = sum(saved.values())
    assert gradients + activations < 0.95 * ROOM
    assert states > ROOM + SPARE


@pytest.mark.gpu
@pytest.mark.oversubscribe
def test_training_goes_on_with_its_states_evicted_and_gives_the_same_adapter(
    rows: list[EncodedExample], tmp_path: Path
) -> None:
    start = weights(adapted())
    plain = trained("adamw_torch", rows, tmp_path / "plain", [])
    torch.cuda.empty_cache()
    fill = Fill()
    paged = trained("paged_adamw_32bit", rows, tmp_path / "paged", [fill])
    state = sum(tensor.nbytes for tensor in fill.paged)
    assert state == 8 * sum(weight.numel() for weight in start.values())
    total = torch.cuda.get_device_properties(0).total_memory
    unclaimed = total - torch.cuda.memory_reserved()
    taken = sum(tensor.nbytes for tensor in fill.ballast)
    assert taken > total / 2  # otherwise another process had the device
    assert state > ROOM + SPARE
    free, _ = torch.cuda.mem_get_info()
    assert min(free, unclaimed) < state  # there is no room for the states: they lie on the host
    assert all(bool((piece[-1:] == 1).all()) for piece in fill.ballast)  # nothing was overwritten
    for name, weight in plain.items():
        moved = (weight - start[name]).norm()
        assert (paged[name] - weight).norm() <= 0.02 * moved, name
