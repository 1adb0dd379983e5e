"""Masks are those of the micro-batch, whoever computes it and whatever was drawn before."""

from types import SimpleNamespace
from typing import Any

import torch
from transformers import TrainerControl, TrainerState

from qlora_repro.train.dropout import DropoutDraw


def masks(*, processes: int, per_step: int, steps: range, seed: int = 0) -> dict[int, bytes]:
    """Return the mask that each micro-batch of the steps draws, by its number in the run."""
    drawn: dict[int, bytes] = {}
    for rank in range(processes):
        draw = DropoutDraw(seed, per_step)
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
