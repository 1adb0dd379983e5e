"""hydra/launcher=submitit_local, the real command: each cell a job of submitit's own executor."""

from pathlib import Path

import pytest
from running import end, run_afresh, start
from workers import SMALL, kill_one

pytest.importorskip("submitit", reason="the extra submitit is absent")

JOBS = ["hydra/launcher=submitit_local", "-m"]


def test_jobs_share_the_parents_folders_and_the_sweep_ends_with_their_table(tmp_path: Path) -> None:
    outcome = run_afresh(tmp_path, *SMALL, "stages=[plan]", *JOBS, "lora.r=4,8,0")
    assert outcome.code == 1
    assert "lora.r is 0" in outcome.out
    assert "error: 1 of 3 cells failed or were not run; to run just those:" in outcome.err
    assert len(list(outcome.results.glob("*/plan-*.jsonl"))) == 2
    assert [outcome.out.count(f"r={r}") > 0 for r in (4, 8)] == [True, True]


@pytest.mark.slow
def test_a_killed_job_fails_its_cell_by_name_and_the_others_run_on(tmp_path: Path) -> None:
    words = [*SMALL, "train.max_steps=40", "train.save_steps=10", *JOBS, "seed=0,1"]
    process = start(tmp_path, *words)
    killed = kill_one(process, tmp_path)
    seed = killed.split("-s")[-1][0]
    outcome = end(process, tmp_path)
    assert outcome.code == 1
    assert f"seed={seed}): its worker died: " in outcome.err
    done = [path.parent.name for path in outcome.results.glob("*/train.json")]
    assert len(done) == 1
    assert killed not in done
