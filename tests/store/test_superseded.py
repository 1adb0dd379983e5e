"""A process that stood still while another took its run over changes nothing of it."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from filelock import SoftFileLease
from peft import LoraConfig, get_peft_model
from plain_training import TRAIN
from transformers import LlamaForCausalLM, TrainerCallback

from qlora_repro.data.collators import causal_collator
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.errors import Superseded
from qlora_repro.store import lock
from qlora_repro.store.runs import LOCKS, RunFolder
from qlora_repro.train.checkpoint import save_atomically
from qlora_repro.train.trainer import Step, TrainingInputs, train_model

ROW = Step(step=1, loss=1.0, grad_norm=None, lr=0.1)


def take_over(folder: RunFolder) -> SoftFileLease:
    """Own a run's lock as a process does once the one before has been silent for a lease."""
    path = folder.path.parent / LOCKS / folder.path.name
    path.unlink()
    lease = SoftFileLease(path, lease_duration=lock.LEASE_SECONDS, timeout=0, is_singleton=False)
    lease.acquire()
    return lease


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(folder: Path) -> None:
    (folder / "model.safetensors").write_text("late")


CHANGES: dict[str, Callable[[RunFolder], object]] = {
    "records": lambda folder: folder.write_records("steps.jsonl", [ROW]),
    "document": lambda folder: folder.write_json("manifest.json", {"late": True}),
    "progress": lambda folder: folder.write_progress("training", step=3),
    "failure": lambda folder: folder.write_failure(state="failed", reason="", trace="", rerun=""),
    "removal": lambda folder: folder.remove("*.json"),
    "weights": lambda folder: save_atomically(fill, folder.path / "adapter", folder.check_held),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_it_would_change_is_refused(
    change: Callable[[RunFolder], object], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run", "0")
    with folder.locked():
        change(folder)  # as long as the run is its own
        lease = take_over(folder)
        for name in ("manifest.json", "progress.json"):
            folder.path.mkdir(exist_ok=True)
            (folder.path / name).write_text("{}")
        before = contents(tmp_path)
        with pytest.raises(Superseded, match=r"stood still.*run the same command again"):
            change(folder)
    assert contents(tmp_path) == before
    assert lease.owner is not None
    assert lease.owner.token == lease.token
    lease.release()


class TakeOver(TrainerCallback):
    """Another process takes the run over in a step, which ends with a checkpoint."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            self.lease = take_over(self.folder)
            self.before = contents(self.folder.path)


def test_training_stops_before_its_next_checkpoint(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = get_peft_model(llama, LoraConfig(r=4, target_modules=["q_proj"]))
    folder = RunFolder(tmp_path / "run", "0")
    other = TakeOver(folder)
    inputs = TrainingInputs(
        rows=rows,
        collate=causal_collator(2, trims_logits=True),
        compute_dtype="float32",
        seed=0,
        folder=folder.path / "checkpoints",
        callbacks=[other],
        check_held=folder.check_held,
    )
    with pytest.raises(Superseded), folder.locked():
        train_model(model, inputs, cfg=TRAIN)
    assert contents(folder.path) == other.before
    assert list((folder.path / "checkpoints").glob("checkpoint-*")) == [
        folder.path / "checkpoints" / "checkpoint-3"
    ]
    other.lease.release()


def keep_writing(folder: RunFolder, may_stop: Any) -> None:
    """Change a run's folder without a pause, in every way; end with 3 once it is another's.

    `may_stop` is 0 from the last look at the lock to the change after it. Whoever stops in those
    microseconds is not seen by any lease.
    """
    replace, check_held = os.replace, folder.check_held

    def replace_and_note(*paths: Any) -> None:
        replace(*paths)
        may_stop.value = 1

    def check_and_note() -> None:
        may_stop.value = 0
        check_held()

    os.replace, folder.check_held = replace_and_note, check_and_note  # type: ignore[method-assign]
    try:
        with folder.locked():
            while True:
                for name in ("records", "document", "progress", "weights"):
                    CHANGES[name](folder)
    except Superseded:
        os._exit(3)


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_stopped_process_that_goes_on_after_its_lease_changes_no_byte(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.5)
    moments, context = random.Random(0), multiprocessing.get_context("fork")
    for number in range(times):
        folder, may_stop = RunFolder(tmp_path / f"run-{number}", str(number)), context.Value("b", 0)
        owner = context.Process(target=keep_writing, args=(folder, may_stop))
        owner.start()
        assert owner.pid is not None
        while not (folder.path / "adapter").exists():
            time.sleep(0.01)
        may_stop.value = 0
        while not may_stop.value:
            os.kill(owner.pid, signal.SIGCONT)
            time.sleep(moments.random() / 20)
            os.kill(owner.pid, signal.SIGSTOP)
            while psutil.Process(owner.pid).status() != psutil.STATUS_STOPPED:
                time.sleep(0.001)
        with RunFolder(folder.path, str(number)).locked(wait=True):
            (folder.path / "steps.jsonl").write_text("mine")
            before = contents(folder.path)
            os.kill(owner.pid, signal.SIGCONT)
            owner.join()
            after = {name: data for name, data in contents(folder.path).items() if name in before}
            assert after == before
            assert owner.exitcode == 3
