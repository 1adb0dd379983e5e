"""What processes may share, told from the environment that torchrun sets."""

import json
import signal
from collections.abc import Callable

import pytest
import torch
from torch.distributed import HashStore

from qlora_repro.cli import processes
from qlora_repro.config.schema import RunConfig
from qlora_repro.distributed import environment, process_group
from qlora_repro.distributed.process_group import ProcessGroup
from qlora_repro.errors import ConfigError
from qlora_repro.model.device import resolve_device
from qlora_repro.store.run_id import stage_digest

Configured = Callable[..., RunConfig]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Let this process be one of several."""

    def make(rank: int, many: int) -> None:
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(name, str(rank))
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.setenv(name, str(many))

    return make


def test_a_process_that_was_started_alone_is_rank_0_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")  # left over in a shell: nobody numbered this process
    assert (environment.rank(), environment.world_size(), environment.local_rank()) == (0, 1, 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.batch_size=6"], "4 processes cannot share train.batch_size=6 evenly"),
        (
            ["train.batch_size=8", "train.micro_batch_size=4"],
            "train.micro_batch_size=4 in 4 processes does not divide train.batch_size=8; write "
            "train.micro_batch_size=2 or a divisor of it",
        ),
        (["train=fsdp", "lora=none", "dtype=bf16"], "divides a frozen base, and lora=none trains"),
        (
            ["model.device=spread"],
            "lets one process use all cards of a machine, and 4 were started",
        ),
        (["train=fsdp", "dtype=int8"], "cannot divide the int8 layers of bitsandbytes"),
    ],
)
def test_what_the_processes_cannot_share_is_refused(
    words: list[str], said: str, configured: Configured, started: Callable[[int, int], None]
) -> None:
    started(0, 4)
    with pytest.raises(ConfigError, match=said):
        configured("model=tiny", "train.batch_size=4", "train.micro_batch_size=1", *words)


def test_a_launcher_that_divides_the_model_itself_is_refused(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"ACCELERATE_USE_FSDP is set.*use accelerate launch"):
        configured("model=tiny")


def test_batches_are_free_where_nothing_trains(
    configured: Configured, started: Callable[[int, int], None]
) -> None:
    started(0, 4)
    assert configured("model=tiny", "train.batch_size=6", "stages=[eval]").train.batch_size == 6


def test_a_divided_base_needs_processes_to_divide_it_among(configured: Configured) -> None:
    with pytest.raises(ConfigError, match="divides the base among processes, and this is the only"):
        configured("model=tiny", "train=fsdp")


def test_a_cell_is_named_alike_however_many_processes_train_it_and_however_it_lies(
    configured: Configured, started: Callable[[int, int], None]
) -> None:
    words = ("model=tiny", "train.micro_batch_size=1")
    alone = stage_digest(configured(*words), "train")
    started(1, 4)
    assert stage_digest(configured(*words), "train") == alone
    assert stage_digest(configured(*words, "train=fsdp"), "train") == alone


def test_each_process_takes_the_gpu_of_its_number(
    monkeypatch: pytest.MonkeyPatch, started: Callable[[int, int], None]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    started(3, 4)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 3)
    started(0, 5)
    with pytest.raises(ConfigError, match="5 processes were started on this machine, and it has 4"):
        resolve_device("auto")


def test_torchruns_signal_after_a_failure_does_not_cut_rank_0_short(
    started: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    started(0, 2)
    meeting = ProcessGroup(HashStore())
    monkeypatch.setattr(process_group, "process_group", lambda: meeting)
    with pytest.raises(KeyboardInterrupt):  # while all is well it is an interruption
        processes._interrupt(signal.SIGTERM, None)
    meeting.store.set("failed", json.dumps([0, "the loss is nan"]))  # this rank was the first
    processes._interrupt(signal.SIGTERM, None)
