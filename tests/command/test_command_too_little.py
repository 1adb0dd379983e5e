"""A machine that runs out while training: a full disk, too little memory."""

import re
import resource
import subprocess
from pathlib import Path

import pytest
from forking import fork
from running import end_forked, run_command, wait_for

ONE_CHECKPOINT = "size=5m"  # one takes 3.1 MB


@pytest.mark.parametrize("disk", [ONE_CHECKPOINT], indirect=True)
def test_a_disk_that_fills_keeps_the_last_checkpoint_and_a_rerun_with_space_goes_on(
    disk: Path, tmp_path: Path
) -> None:
    words = ["model=tiny", "stages=[train]", "train.max_steps=6", "train.save_steps=2"]
    words.append("results_dir=disk")
    sentence = run_command(tmp_path, *words).refusal()
    assert "the disk under disk/" in sentence
    assert "step 2 is kept" in sentence
    assert "free some space and run the same command again" in sentence
    marks = list(disk.glob("*/checkpoints/*/whole.json"))
    assert [mark.parent.name for mark in marks] == ["checkpoint-2"]
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    finished = run_command(tmp_path, *words)
    assert (finished.code, finished.err) == (0, "")
    assert "taken up at step 2 of 6" in finished.out
    assert len(list(disk.glob("*/adapter/adapter_model.safetensors"))) == 1
    assert not list(disk.glob("*/checkpoints"))


def test_lack_of_memory_is_refused_with_the_estimate_and_what_to_lower(tmp_path: Path) -> None:
    words = ["model=tiny", "stages=[train]", "train.max_steps=1", "train.batch_size=6400"]
    process = fork(tmp_path, *words, part_streams=True)
    wait_for(process, lambda: "training on 640 rows" in process.output)
    status = Path(f"/proc/{process.pid}/status").read_text()
    size = int(re.search(r"VmSize:\s+(\d+) kB", status)[1]) << 10
    resource.prlimit(process.pid, resource.RLIMIT_AS, (size + (256 << 20),) * 2)
    outcome = end_forked(process)
    sentence = outcome.refusal()
    assert re.search(r"out of memory: .* take 0\.\d+ GB", sentence)
    for setting in ("train.micro_batch_size (now 6400)", "data.max_source_len", "lora.r"):
        assert setting in sentence
    outcome.assert_nothing_half_written()
