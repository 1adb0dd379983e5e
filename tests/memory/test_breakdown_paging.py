"""Simulated paging against closed forms, and the paper's 33B on 24 GB."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import RunError
from qlora_repro.memory.breakdown import bytes_paged_per_step
from qlora_repro.memory.prediction import predict_memory
from qlora_repro.memory.settings import usable_bytes
from qlora_repro.memory.tables import describe_card, describe_paging
from qlora_repro.records import MemoryPlan

Configured = Callable[..., RunConfig]
GB = 10**9
ONE_ROW = ("train.batch_size=1", "train.micro_batch_size=1", "plan.length=512")


@pytest.fixture
def plan(configured: Configured) -> MemoryPlan:
    """A run with 4 GB of paged states and a step that takes 3 GB beside them."""
    planned = predict_memory(configured("model=llama_7b"))
    return replace(planned, optimizer=4 * GB, stepping=3 * GB)


def simulated(plan: MemoryPlan, cfg: RunConfig, *, busy: int, bus: float) -> list[str]:
    """Return what each step moves on a card of 10 GB."""
    card = 10 * GB / 2**30
    asked = replace(cfg.plan, memory=card, bus=bus, reserve=0.0)
    lines = describe_paging(replace(plan, busy=busy, peak=11 * GB), asked)
    return [line.partition("GB/s: ")[2] for line in lines]


def test_nothing_pages_where_all_fits(plan: MemoryPlan, configured: Configured) -> None:
    lines = simulated(plan, configured(), busy=6 * GB, bus=25)
    assert lines == [f"step {n}: 0.00 GB out, 0.00 GB in, 0.00 s" for n in (1, 2, 3)]


@pytest.mark.parametrize("over", [1, 2, 4])
def test_what_does_not_fit_beside_activations_goes_out_and_comes_back(
    over: int, plan: MemoryPlan, configured: Configured
) -> None:
    lines = simulated(plan, configured(), busy=(6 + over) * GB, bus=20)
    moved = f"{over}.00 GB out, {over}.00 GB in, {2 * over / 20:.2f} s"
    assert lines == [
        "step 1: 0.00 GB out, 0.00 GB in, 0.00 s",  # there is no state before the first step
        f"step 2: {moved}",
        f"step 3: {moved}",
    ]


def test_a_state_that_does_not_fit_the_step_moves_whole() -> None:
    assert bytes_paged_per_step(10, states=4, busy=8, stepping=7) == 4


def test_twice_the_bus_is_half_the_time(plan: MemoryPlan, configured: Configured) -> None:
    slow, fast = (
        float(simulated(plan, configured(), busy=8 * GB, bus=bus)[1].split()[-2]) for bus in (5, 10)
    )
    assert slow == 2 * fast


def test_a_run_too_large_without_any_state_is_refused() -> None:
    with pytest.raises(RunError, match=r"takes 11\.00 GB, and the device has 10\.00 GB"):
        bytes_paged_per_step(10 * GB, states=1, busy=11 * GB, stepping=3)


def test_33b_with_float32_adapters_pages_on_24_gb_and_65b_does_not_on_48(
    configured: Configured,
) -> None:
    large, small = (
        configured(f"model=llama_{size}b", *ONE_ROW, "lora.dtype=float32") for size in (65, 33)
    )
    plan = predict_memory(small)
    assert plan.peak > usable_bytes(24, small.plan)
    assert "optimizer states paged out" in describe_card(plan, 24, small.plan)
    steps = describe_paging(plan, small.plan)
    assert all(line.startswith("simulated paging on 24 GB at 25 GB/s") for line in steps)
    assert "0.00 GB out" in steps[0]
    assert "0.00 GB out" not in steps[1]
    assert "training holds it, " in describe_card(predict_memory(large), 48, large.plan)


def test_33b_with_the_papers_adapters_fits_24_gb_without_paging(configured: Configured) -> None:
    cfg = configured("model=llama_33b", *ONE_ROW)
    plan = predict_memory(cfg)
    assert plan.adapters == "bfloat16"
    assert plan.peak < 24 * GB  # of 1e9 bytes, and a card sold as 24 GB has 24 GiB
    assert "training holds it, " in describe_card(plan, 24, cfg.plan)


def test_65b_with_the_papers_adapters_takes_less_than_45_gb(configured: Configured) -> None:
    plan = predict_memory(configured("model=llama_65b", *ONE_ROW))
    assert plan.adapters == "bfloat16"
    assert plan.peak < 45 * GB


def test_the_card_can_be_named_and_one_too_small_says_so(configured: Configured) -> None:
    cfg = configured("model=llama_33b", "plan.memory=16")
    said = describe_paging(predict_memory(cfg), cfg.plan)
    assert len(said) == 1
    assert said[0].startswith("simulated paging on 16 GB")
    assert said[0].endswith("paging cannot help")


def test_an_optimizer_that_is_not_paged_does_not_page(configured: Configured) -> None:
    cfg = configured("model=llama_33b", "train.optim=adamw_torch_fused")
    assert describe_paging(predict_memory(cfg), cfg.plan) == []
