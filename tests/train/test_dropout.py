"""Masks are those of the row, whoever computes it, beside what, and whatever was drawn before."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from plain_training import TRAIN
from transformers import LlamaForCausalLM, TrainerControl, TrainerState

from qlora_repro.data.collators import causal_collator, packed_collator
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.train.dropout import DropoutSeeding, RowDropout
from qlora_repro.train.trainer import TrainingInputs, train_model


def masks(*, processes: int, per_step: int, steps: range, seed: int = 0) -> dict[int, bytes]:
    """Return the mask that each micro-batch of the steps draws, by its number in the run."""
    drawn: dict[int, bytes] = {}
    for rank in range(processes):
        draw = DropoutSeeding(seed, per_step)
        args: Any = SimpleNamespace(world_size=processes, process_index=rank)
        for step in steps:
            state, control = TrainerState(global_step=step), TrainerControl()
            draw.on_step_begin(args, state, control)
            for place in range(rank, per_step, processes):
                mask = torch.nn.functional.dropout(torch.ones(256), 0.5)
                drawn[step * per_step + place] = mask.numpy().tobytes()
                draw.on_substep_end(args, state, control)
    return drawn


def test_two_processes_and_four_draw_the_masks_of_one() -> None:
    one = masks(processes=1, per_step=4, steps=range(3))
    assert masks(processes=2, per_step=4, steps=range(3)) == one
    assert masks(processes=4, per_step=4, steps=range(3)) == one


def test_no_two_micro_batches_share_a_mask_and_seeds_differ() -> None:
    drawn = masks(processes=2, per_step=4, steps=range(8))
    assert len(set(drawn.values())) == len(drawn) == 32
    assert not {*drawn.values()} & {
        *masks(processes=1, per_step=4, steps=range(8), seed=1).values()
    }


def test_a_run_that_is_taken_up_draws_what_it_would_have_drawn() -> None:
    whole = masks(processes=1, per_step=2, steps=range(6))
    torch.rand(5)
    assert masks(processes=1, per_step=2, steps=range(4, 6)).items() <= whole.items()


def losses(
    llama: LlamaForCausalLM, rows: list[EncodedExample], folder: Path, **changes: Any
) -> list[float]:
    """Return the loss curve of an adapter that is trained with dropout."""
    model = LlamaForCausalLM(llama.config)
    model.load_state_dict(llama.state_dict())
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj", "down_proj"])
    packed = changes.get("packing", False)
    job = TrainingInputs(
        rows=rows,
        collate=packed_collator(trims_logits=True)
        if packed
        else causal_collator(2, trims_logits=True),
        compute_dtype="float32",
        seed=0,
        folder=folder,
    )
    cfg = replace(TRAIN, max_steps=4, save_steps=0, **changes)
    return [step.loss for step in train_model(get_peft_model(model, lora), job, cfg=cfg).steps]


def test_a_batch_has_the_same_masks_however_it_is_cut_up(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path
) -> None:
    whole = losses(llama, rows, tmp_path, micro_batch_size=4)
    for size in (2, 1):
        cut = losses(llama, rows, tmp_path, micro_batch_size=size)
        assert cut == pytest.approx(whole, rel=2e-5)  # sums of float32 in another order
    again = losses(llama, rows, tmp_path, micro_batch_size=2, gradient_checkpointing=True)
    assert again == pytest.approx(whole, rel=2e-5)
    for size in (4, 2, 1):
        packed = losses(llama, rows, tmp_path, micro_batch_size=size, packing=True)
        assert packed == pytest.approx(whole, rel=2e-5)


def test_dropout_by_row_drops_its_share_and_scales_what_is_left() -> None:
    dropout = RowDropout(0.25, layer=3, length=40).train()
    dropout.seeds = [1, 2]
    x = torch.ones(2, 30, 100, requires_grad=True)
    y = dropout(x)
    y.sum().backward()
    assert y.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert torch.equal(x.grad, y.detach())
    share = float((y == 0).float().mean())
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / y.numel()) ** 0.5
    assert not torch.equal(y[0], y[1])
    assert torch.equal(dropout.eval()(x), x)
