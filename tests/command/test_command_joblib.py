"""hydra/launcher=joblib, the real command: several processes, one of them killed."""

import pytest
from running import Outcome, end, start
from workers import SMALL, kill_one

pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra joblib is absent")

pytestmark = pytest.mark.long

TWO = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@pytest.fixture(scope="module")
def bereaved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, str]:
    """Two cells that train, of which one's worker is killed, and one that is refused."""
    folder = tmp_path_factory.mktemp("bereaved")
    sweep = [*SMALL, *TWO, "-m", "seed=0,1,-1", "train.max_steps=40", "train.save_steps=10"]
    process = start(folder, *sweep)
    killed = kill_one(process, folder)
    return end(process, folder), killed


def test_a_killed_worker_costs_no_cell_and_the_table_still_comes(
    bereaved: tuple[Outcome, str],
) -> None:
    outcome, killed = bereaved
    assert "note: a worker died (TerminatedWorkerError: " in outcome.out
    assert "again, alone, as its worker died: tiny, nf4 + dq" in outcome.out
    table = outcome.out.partition("the sweep, a row a cell")[2]
    assert [table.count(f"seed {seed}") for seed in (0, 1)] == [1, 1]
    done = {path.parent.name: path for path in outcome.results.glob("*/train.json")}
    assert killed in done
    assert len(done) == 2
    assert [len((p.parent / "steps.jsonl").read_text().splitlines()) for p in done.values()] == [
        *(40, 40),
    ]


def test_the_exit_code_and_the_command_for_the_rest_are_those_of_a_sweep_in_one_process(
    bereaved: tuple[Outcome, str],
) -> None:
    outcome, _ = bereaved
    assert outcome.code == 1
    assert "error: 1 of 3 cells failed or were not run; to run just those:" in outcome.err
    commands = [line for line in outcome.err.splitlines() if line.startswith("  python run.py ")]
    assert len(commands) == 1
    assert commands[0].endswith("seed=-1 train.max_steps=40 train.save_steps=10")
