"""Simulated paging against closed forms, and the paper's 33B on 24 GB."""

from collections.abc import Callable

import pytest

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import RunError
from qlora_repro.memory.paging import Demand, moved, simulate
from qlora_repro.memory.prediction import predicted
from qlora_repro.memory.settings import card_bytes
from qlora_repro.memory.tables import card_line, paging_lines

Configured = Callable[..., RunConfig]
GB = 10**9
ONE_ROW = ("train.batch_size=1", "train.micro_batch_size=1", "plan.length=512")


def test_nothing_pages_where_all_fits() -> None:
    steps = simulate(Demand(state=4 * GB, busy=6 * GB, stepping=3 * GB), 10 * GB, bus=25, steps=3)
    assert [(s.paged_in, s.paged_out, s.seconds) for s in steps] == [(0, 0, 0)] * 3


@pytest.mark.parametrize("over", [1, 2, 4])
def test_what_does_not_fit_beside_activations_goes_out_and_comes_back(over: int) -> None:
    demand = Demand(state=4 * GB, busy=(6 + over) * GB, stepping=3 * GB)
    first, second, third = simulate(demand, 10 * GB, bus=20, steps=3)
    assert (first.paged_in, first.seconds) == (0, 0)  # there is no state before the first step
    assert second.paged_out == second.paged_in == over * GB
    assert second.seconds == 2 * over / 20
    assert third == type(second)(step=3, paged_out=over * GB, paged_in=over * GB, seconds=over / 10)


def test_a_state_that_does_not_fit_the_step_moves_whole() -> None:
    assert moved(Demand(state=4, busy=8, stepping=7), 10) == 4


def test_twice_the_bus_is_half_the_time() -> None:
    demand = Demand(state=4 * GB, busy=8 * GB, stepping=3 * GB)
    slow, fast = (simulate(demand, 10 * GB, bus=bus, steps=2)[1].seconds for bus in (10, 20))
    assert slow == 2 * fast


def test_a_run_too_large_without_any_state_is_refused() -> None:
    with pytest.raises(RunError, match=r"takes 11\.00 GB, and the device has 10\.00 GB"):
        moved(Demand(state=1, busy=11 * GB, stepping=3), 10 * GB)


def test_33b_with_float32_adapters_pages_on_24_gb_and_65b_does_not_on_48(
    configured: Configured,
) -> None:
    large, small = (
        configured(f"model=llama_{size}b", *ONE_ROW, "lora.dtype=float32") for size in (65, 33)
    )
    plan = predicted(small)
    assert plan.peak > card_bytes(24, small.plan)
    assert "optimizer states paged out" in card_line(plan, 24, small.plan)
    steps = paging_lines(plan, small.plan)
    assert all(line.startswith("simulated paging on 24 GB at 25 GB/s") for line in steps)
    assert "0.00 GB out" in steps[0]
    assert "0.00 GB out" not in steps[1]
    assert "training holds it, " in card_line(predicted(large), 48, large.plan)


def test_33b_with_the_papers_adapters_fits_24_gb_without_paging(configured: Configured) -> None:
    cfg = configured("model=llama_33b", *ONE_ROW)
    plan = predicted(cfg)
    assert plan.adapters == "bfloat16"
    assert plan.peak < 24 * GB  # of 1e9 bytes, and a card sold as 24 GB has 24 GiB
    assert "training holds it, " in card_line(plan, 24, cfg.plan)


def test_65b_with_the_papers_adapters_takes_less_than_45_gb(configured: Configured) -> None:
    plan = predicted(configured("model=llama_65b", *ONE_ROW))
    assert plan.adapters == "bfloat16"
    assert plan.peak < 45 * GB


def test_the_card_can_be_named_and_one_too_small_says_so(configured: Configured) -> None:
    cfg = configured("model=llama_33b", "plan.memory=16")
    said = paging_lines(predicted(cfg), cfg.plan)
    assert len(said) == 1
    assert said[0].startswith("simulated paging on 16 GB")
    assert said[0].endswith("paging cannot help")


def test_an_optimizer_that_is_not_paged_does_not_page(configured: Configured) -> None:
    cfg = configured("model=llama_33b", "train.optim=adamw_torch_fused")
    assert paging_lines(predicted(cfg), cfg.plan) == []
