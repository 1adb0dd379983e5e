"""hydra/launcher=ray, the real command on a real local cluster of one machine."""

from pathlib import Path

import pytest
from running import end, run_afresh, start
from workers import SMALL, kill_one

pytest.importorskip("ray", reason="the extra ray is absent")

CLUSTER = ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"]
ONCE = "+hydra.launcher.ray.remote.max_retries=0"  # Ray would start the cell again by itself
SWEEP = [*SMALL, "train.max_steps=40", "train.save_steps=10", "-m", "seed=0,1"]


def test_a_killed_ray_worker_fails_its_cell_by_name_and_a_second_call_completes_it(
    tmp_path: Path,
) -> None:
    process = start(tmp_path, *CLUSTER, ONCE, *SWEEP)
    killed = kill_one(process, tmp_path)
    seed = killed.split("-s")[-1][0]
    outcome = end(process, tmp_path)
    assert outcome.code == 1
    assert f"seed={seed}): its worker died: WorkerCrashedError" in outcome.err
    assert "error: 1 of 2 cells failed or were not run; to run just those:" in outcome.err
    assert outcome.err.rstrip().endswith(f"seed={seed}")
    done = [path.parent.name for path in outcome.results.glob("*/train.json")]
    assert len(done) == 1
    assert killed not in done
    again = run_afresh(tmp_path, *SWEEP)  # one engine goes on with what another left
    assert again.code == 0, again.err
    assert again.out.count("training: in the store, skipped") == 1
    assert (outcome.results / killed / "train.json").exists()
