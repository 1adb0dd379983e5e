"""A paged optimizer on a device with no room left: training goes on, and ends the same."""

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

from qlora_repro.data.collate import causal
from qlora_repro.data.encode import Row
from qlora_repro.train.loop import Job, train

pytestmark = pytest.mark.gpu
# bitsandbytes pages a state of 100,000 values and more, which each matrix of these adapters has
R, HIDDEN, INNER, BLOCKS = 256, 1024, 2048, 2
PIECE = 1 << 21  # bytes: pages of CUDA's allocator
ROOM = 1 << 25  # bytes left for the activations of a step, less than the optimizer's states
STEPS = 8
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
        for size in (1 << 30, 1 << 26, PIECE):  # large pieces first, then what fits in between
            self._take(size)
        del room  # stays with torch's allocator, for the activations

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
    return get_peft_model(base, config).cuda()


def weights(model: PeftModel) -> dict[str, Tensor]:
    return {n: p.detach().cpu().clone() for n, p in model.named_parameters() if p.requires_grad}


def trained(optim: str, rows: list[Row], folder: Path, watch: list[Any]) -> Mapping[str, Tensor]:
    """Train a fresh adapter; return its weights."""
    cfg = replace(
        TRAIN,
        optim=optim,
        lr=1e-4,
        micro_batch_size=4,
        max_steps=STEPS,
        group_by_length=False,
        save_steps=0,
    )
    model = adapted()
    job = Job(
        rows=rows,
        collate=causal(2, trims_logits=True),
        compute_dtype="float32",
        seed=0,
        folder=folder,
        watch=watch,
    )
    result = train(model, job, cfg=cfg)
    assert len(result.steps) == STEPS
    return weights(model)


def test_training_goes_on_with_its_states_evicted_and_gives_the_same_adapter(
    rows: list[Row], tmp_path: Path
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
    assert state > ROOM
    free, _ = torch.cuda.mem_get_info()
    assert min(free, unclaimed) < state  # there is no room for the states: they lie on the host
    assert all(bool((piece[-1:] == 1).all()) for piece in fill.ballast)  # nothing was overwritten
    for name, weight in plain.items():
        moved = (weight - start[name]).norm()
        assert (paged[name] - weight).norm() <= 0.02 * moved, name
