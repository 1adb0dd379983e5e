"""What the planner chooses where a run leaves its micro-batch and checkpointing open."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from qlora_repro.config.schema import RunConfig
from qlora_repro.memory.breakdown import training_memory
from qlora_repro.memory.prediction import (
    MARGIN,
    MicroBatch,
    apply_micro_batch,
    choose_micro_batch,
    expected_peak,
    predict_memory,
    predict_peak,
    relative_row_time,
)
from qlora_repro.memory.settings import plan_run, usable_bytes
from qlora_repro.memory.tables import describe_card
from qlora_repro.stages.plan import choose_micro_batches
from qlora_repro.store.run_id import DECIDES, stage_digest

Configured = Callable[..., RunConfig]
GB = 10**9
BLOCK = 202_375_168  # weights of a block of 7B
LEAST = MicroBatch(rows=1, checkpointing=True)


def peak(cfg: RunConfig, micro: MicroBatch) -> int:
    return training_memory(plan_run(apply_micro_batch(cfg, micro))).peak


def test_a_hub_model_leaves_both_open_and_the_embedded_one_states_them(
    configured: Configured,
) -> None:
    hub, embedded = configured("model=llama_7b").train, configured().train
    assert (hub.micro_batch_size, hub.gradient_checkpointing) == ("auto", "auto")
    assert (embedded.micro_batch_size, embedded.gradient_checkpointing) == (8, False)


@pytest.mark.parametrize("memory", [8, 12, 24, 48, 80])
def test_what_is_chosen_fits_and_nothing_that_fits_is_faster(
    memory: int, configured: Configured
) -> None:
    cfg = configured("model=llama_7b", "data=oasst1")
    chosen = choose_micro_batch(cfg, memory * GB)
    room, length = MARGIN * memory * GB, 528
    assert peak(cfg, chosen) <= room
    for rows in (1, 2, 4, 8, 16):
        for way in (True, False):
            other = MicroBatch(rows=rows, checkpointing=way)
            faster = relative_row_time(cfg, other, length, block_weights=BLOCK) < relative_row_time(
                cfg, chosen, length, block_weights=BLOCK
            )
            assert not faster or peak(cfg, other) > room


def test_a_larger_card_is_never_slower(configured: Configured) -> None:
    cfg = configured("model=llama_13b", "data=oasst1")
    times = [
        relative_row_time(cfg, choose_micro_batch(cfg, size * GB), 528, block_weights=317e6)
        for size in range(8, 200, 8)
    ]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]


def test_on_a_cpu_and_where_nothing_fits_it_is_one_row_with_checkpointing(
    configured: Configured,
) -> None:
    cfg = configured("model=llama_65b", "data=oasst1")
    assert choose_micro_batch(cfg, None) == LEAST
    assert choose_micro_batch(cfg, 24 * GB) == LEAST


def test_a_value_that_is_written_stays(configured: Configured) -> None:
    rows = configured("model=llama_7b", "data=oasst1", "train.micro_batch_size=2")
    assert choose_micro_batch(rows, None) == MicroBatch(rows=2, checkpointing=True)
    assert choose_micro_batch(rows, 80 * GB) == MicroBatch(rows=2, checkpointing=False)
    way = configured("model=llama_7b", "data=oasst1", "train.gradient_checkpointing=true")
    assert choose_micro_batch(way, 80 * GB) == MicroBatch(rows=16, checkpointing=True)
    both = configured(
        "model=llama_7b", "train.micro_batch_size=16", "train.gradient_checkpointing=false"
    )
    assert choose_micro_batch(both, 1) == MicroBatch(rows=16, checkpointing=False)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_it_divides_the_batch_among_the_processes(processes: int, configured: Configured) -> None:
    cfg = configured("model=llama_7b", "train.batch_size=24")
    for memory in (8, 24, 80):
        chosen = choose_micro_batch(cfg, memory * GB, processes=processes)
        assert cfg.train.batch_size % (chosen.rows * processes) == 0


def test_several_processes_are_not_refused_for_a_micro_batch_that_is_open(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert configured("model=llama_7b", "train.batch_size=8").train.micro_batch_size == "auto"


def test_short_rows_are_taken_together_where_long_ones_are_not(configured: Configured) -> None:
    cfg = configured("model=llama_7b")
    short = choose_micro_batch(cfg, 24 * GB, length=64)
    long = choose_micro_batch(cfg, 24 * GB, length=2048)
    assert short.rows > long.rows


def test_auto_hashes_as_auto_whatever_the_card_and_a_written_value_as_before(
    configured: Configured,
) -> None:
    words = ("model=llama_7b", "data=oasst1", "stages=[plan]")
    names = {
        stage: {
            stage_digest(configured(*words, *more), stage)
            for more in ((), ("plan.gpus=[8]",), ("train.micro_batch_size=auto",))
        }
        for stage in DECIDES
    }
    assert all(len(digests) == 1 for digests in names.values())
    written = configured(*words, "train.micro_batch_size=1", "train.gradient_checkpointing=true")
    assert stage_digest(written, "train") not in names["train"]
    settled = apply_micro_batch(configured(*words), LEAST)
    assert stage_digest(settled, "train") == stage_digest(written, "train")


def test_a_plan_is_of_the_least_and_says_what_each_card_takes(configured: Configured) -> None:
    cfg = configured("model=llama_7b", "data=oasst1", "plan.gpus=[6,24,80]", "plan.memory=null")
    plan = predict_memory(cfg)
    assert (plan.rows, plan.checkpointing) == (1, True)
    chosen = choose_micro_batches(cfg)
    assert chosen == {n: choose_micro_batch(cfg, usable_bytes(n, cfg.plan)) for n in (6, 24, 80)}
    line = describe_card(plan, 80, cfg.plan, micro_batch=chosen[80])
    assert "training holds it (micro-batch 16 without gradient checkpointing)" in line
    assert choose_micro_batches(configured("model=tiny")) == {}


def test_a_plan_for_one_card_is_of_what_that_card_takes(configured: Configured) -> None:
    cfg = configured("model=llama_7b", "data=oasst1", "plan.memory=80")
    assert (predict_memory(cfg).rows, predict_memory(cfg).checkpointing) == (16, False)


def test_a_run_is_held_against_what_it_chose(configured: Configured) -> None:
    cfg = configured("model=llama_7b", "data=oasst1")
    written = configured(
        "model=llama_7b",
        "data=oasst1",
        "train.micro_batch_size=4",
        "train.gradient_checkpointing=false",
    )
    record = {"longest": 100, "micro_batch_size": 4, "gradient_checkpointing": False}
    assert expected_peak(cfg, record) == predict_peak(written, length=100)
    assert expected_peak(cfg, {"longest": 100}) == predict_peak(cfg, length=100)


def test_full_finetuning_has_a_smaller_share_of_recomputation(configured: Configured) -> None:
    cfg = configured("model=llama_7b", "lora=none", "dtype=bf16", "train=full")
    lora = configured("model=llama_7b")
    with_it, without = LEAST, replace(LEAST, checkpointing=False)
    shares = [
        relative_row_time(one, with_it, 512, block_weights=BLOCK)
        / relative_row_time(one, without, 512, block_weights=BLOCK)
        for one in (cfg, lora)
    ]
    assert shares == pytest.approx([4 / 3, 3 / 2])
