"""The tables a user sees: what is marked, what is missing, which way a loss is better."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from statsmodels.stats.proportion import proportion_confint

from qlora_repro.console import say
from qlora_repro.records import Answer, CellState, Manifest, Metric
from qlora_repro.reporting import run_table
from qlora_repro.reporting.run_table import CellResult, Scores, build_cell_table, describe_cost
from qlora_repro.reporting.sweep_table import SweepRow, build_sweep_tables

BASE = {"bits_per_parameter": 4.127, "modules": 210, "simulated": False}


def scores(task: str, name: str, values: list[float | None]) -> Scores:
    scored = [value for value in values if value is not None]
    mean = sum(scored) / len(scored) if scored else None
    return Scores(
        metrics=[Metric(run_id="x", task=task, name=name, value=mean, stderr=None, n=len(scored))],
        answers=[
            Answer(run_id="x", task=task, name=name, doc_id=n, doc_hash=str(n), value=value)
            for n, value in enumerate(values)
        ],
    )


def manifest(*, dirty: bool = False, device: str = "cpu") -> Manifest:
    provenance = {"dirty": dirty, "device": device}
    return Manifest.from_json({"decided_by": {}, "provenance": provenance, "base": BASE})


def result(before: Scores | None, after: Scores | None, **changes: Any) -> CellResult:
    made = CellResult(
        label="tiny, nf4 + dq",
        folder=Path("results/tiny"),
        model="tiny",
        note=None,
        limit=None,
        before=before,
        after=after,
        lines=run_table.score_lines(before, after),
        manifest=manifest(),
        training=None,
    )
    return replace(made, **changes)


def printed(capsys: pytest.CaptureFixture[str], *what: Any) -> str:
    say(*what)
    return capsys.readouterr().out


def row(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"│ {start}"))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_row_has_both_scores_the_difference_with_its_interval_and_a_verdict(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = result(scores("quiz", "acc", [0.0] * 40), scores("quiz", "acc", [1.0] * 40))
    text = printed(capsys, build_cell_table(found))
    wanted = ["quiz", "acc", "40", "-", "0.000", "1.000", "+1.000 [+1.000, +1.000]", "< 0.001"]
    assert row(text, "quiz") == [*wanted, "better"]


def test_a_loss_that_rises_is_worse(capsys: pytest.CaptureFixture[str]) -> None:
    low, high = ([base + n / 1000 for n in range(4000)] for base in (1.0, 2.0))
    for task, name in (("perplexity", "nats_per_token"), ("held_out", "squared_error")):
        text = printed(
            capsys, build_cell_table(result(scores(task, name, low), scores(task, name, high)))
        )
        assert row(text, task)[-1] == "worse"


def test_a_score_that_is_missing_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(scores("quiz", "acc", [None, None]), scores("quiz", "acc", [1.0, 0.0]))
    assert row(printed(capsys, build_cell_table(found)), "quiz")[4:7] == [
        "missing",
        "0.500",
        "missing",
    ]


def test_what_nothing_is_tuned_for_has_one_score_and_its_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hits = [float(n % 4 == 0) for n in range(400)]
    text = printed(capsys, build_cell_table(result(scores("quiz", "acc", hits), None)))
    *told, interval = row(text, "quiz")
    assert told == ["quiz", "acc", "400", "-", "0.250"]
    wilson = proportion_confint(100, 400, method="wilson")
    ends = [float(end) for end in interval.strip("[]").split(", ")]
    assert ends == pytest.approx(wilson, abs=0.006)
    assert "missing" not in text
    assert "verdict" not in text


def test_the_interval_of_a_perplexity_is_that_of_its_loss(
    capsys: pytest.CaptureFixture[str],
) -> None:
    losses = scores("perplexity", "nats_per_token", [2.0 + n % 7 / 10 for n in range(2048)])
    metrics = [*losses.metrics, replace(losses.metrics[0], name="perplexity", value=9.97)]
    text = printed(capsys, build_cell_table(result(replace(losses, metrics=metrics), None)))
    ends = {}
    for name in ("nats_per_token", "perplexity"):
        found = row(text, f"perplexity │ {name}")[-1]
        ends[name] = [float(end) for end in found.strip("[]").split(", ")]
    assert [math.log(end) for end in ends["perplexity"]] == pytest.approx(
        ends["nats_per_token"], abs=1e-3
    )


def test_a_limit_a_stand_in_and_uncommitted_changes_are_marked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    quiz = scores("quiz", "acc", [1.0, 0.0])
    plain = result(quiz, quiz)
    marked = replace(plain, limit=5, note="random weights", manifest=manifest(dirty=True))
    text = printed(capsys, build_cell_table(marked))
    assert "tiny: random weights" in text
    assert "limit=5: not a figure to publish" in text
    assert "not a figure" not in printed(capsys, build_cell_table(plain))
    assert any("uncommitted changes" in line for line in describe_cost(marked))
    assert not any("uncommitted changes" in line for line in describe_cost(plain))


def test_a_sweep_has_a_row_a_cell_and_compares_no_cell_twice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[None] = []
    monkeypatch.setattr(run_table, "compare_scores", lambda *_: compared.append(None))
    quiz, other = scores("quiz", "acc", [1.0, 0.0]), scores("test", "acc", [1.0])
    cells = [result(quiz, quiz), result(None, other, label="tiny, bf16", manifest=None)]
    for cell in cells:
        say(build_cell_table(cell))
    rows = [SweepRow(1, cell.label, CellState.DONE, "", None, cell) for cell in cells]
    text = printed(capsys, build_sweep_tables(rows)[0]).rpartition("the sweep")[2]
    assert row(text, "tiny, nf4") == ["tiny, nf4 + dq", "4.127", "0.500 > 0.500", "-"]
    assert row(text, "tiny, bf16") == ["tiny, bf16", "-", "-", "1.000"]
    assert len(compared) == 2


def test_the_predicted_peak_stands_beside_the_measured_one() -> None:
    steps = {"steps": [1], "tokens": 10, "trained_tokens": 5, "tokens_per_second": 1.0}
    training = steps | {"peak_memory": 3_500_000_000, "optim": "adamw_torch_fused"}
    found = result(None, None, training=training)
    assert not any("predicted" in line for line in describe_cost(found))
    (said,) = [
        x for x in describe_cost(replace(found, predicted=2_600_000_000)) if "predicted" in x
    ]
    assert said.startswith("memory: 2.60 GB predicted for the model and training, 3.50 GB measured")
    assert said.endswith("resident, libraries too")
    on_gpu = manifest(device="NVIDIA H100")
    (said,) = [
        x
        for x in describe_cost(replace(found, predicted=2_600_000_000, manifest=on_gpu))
        if "predicted" in x
    ]
    assert said.endswith("3.50 GB measured")


@pytest.mark.parametrize(("paged", "ends"), [(None, "3.50 GB measured"), (0, "3.50 GB measured")])
def test_without_pages_the_measured_peak_stands_alone(paged: int | None, ends: str) -> None:
    (line,) = memory_lines(paged)
    assert line.endswith(ends)


def test_paged_states_stand_beside_what_the_allocator_counts() -> None:
    (line,) = memory_lines(1_280_000_000)
    assert line == (
        "memory: 4.70 GB predicted for the model and training, 3.50 GB measured (allocator) + "
        "1.28 GB paged = 4.78 GB"
    )


def memory_lines(paged: int | None) -> list[str]:
    """Return what is said of the memory of a run on a GPU."""
    steps = {"steps": [1], "tokens": 10, "trained_tokens": 5, "tokens_per_second": 1.0}
    training = steps | {"peak_memory": 3_500_000_000, "optim": "paged_adamw_32bit"}
    training["paged_memory"] = paged
    on_gpu = manifest(device="NVIDIA H100")
    run = result(None, None, training=training, manifest=on_gpu)
    lines = describe_cost(replace(run, predicted=4_700_000_000))
    return [line for line in lines if "predicted" in line]
