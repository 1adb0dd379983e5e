import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from qlora_repro.eval import metrics
from qlora_repro.records import Metric


def sample(number: int, value: Any, *, kind: str = "none") -> dict[str, Any]:
    return {
        "doc_id": number,
        "doc_hash": f"h{number}",
        "metrics": ["acc"],
        "filter": kind,
        "acc": value,
        "filtered_resps": ["yes"],
    }


def test_filters_join_the_name_so_that_no_two_scores_share_one() -> None:
    rows = [sample(0, 1.0, kind="strict"), sample(0, 0.0, kind="loose")]
    assert [answer.name for answer in metrics.answer_records(rows, run_id="r", task="t")] == [
        "acc,strict",
        "acc,loose",
    ]


@pytest.mark.parametrize("missing", [None, math.nan, "unread"])
def test_a_missing_score_is_none_in_the_answer_and_left_out_of_the_mean(missing: Any) -> None:
    rows = [sample(0, 1.0), sample(1, missing), sample(2, 0.0)]
    assert [answer.value for answer in metrics.answer_records(rows, run_id="r", task="t")] == [
        1.0,
        None,
        0.0,
    ]
    found = list(metrics.task_metrics(rows, aggregation={}, run_id="r", task="t"))
    assert [(metric.name, metric.value, metric.n) for metric in found] == [
        ("acc", 0.5, 2),
        ("acc_missing", pytest.approx(1 / 3), 3),
    ]


def test_no_score_at_all_gives_none_and_no_number() -> None:
    rows = [sample(0, None), sample(1, None)]
    found = list(metrics.task_metrics(rows, aggregation={}, run_id="r", task="t"))
    assert [(metric.value, metric.n) for metric in found] == [(None, 0), (1.0, 2)]


def test_a_score_that_is_no_mean_gets_its_own_aggregate_and_a_resampled_error() -> None:
    rng = np.random.default_rng(0)
    pairs = [(int(a), int(b)) for a, b in rng.integers(0, 2, (60, 2))]
    rows = [sample(k, pair) for k, pair in enumerate(pairs)]

    def f1(items: Any) -> float:
        right, chosen = zip(*items, strict=True)
        return float(f1_score(right, chosen))

    (metric,) = metrics.task_metrics(rows, aggregation={"acc": f1}, run_id="r", task="t")
    assert metric.value == f1(pairs)
    assert metric.stderr == pytest.approx(0.07, abs=0.03)
    assert list(metrics.answer_records(rows, run_id="r", task="t")) == []


def test_group_errors_are_those_of_weighted_sums() -> None:
    parts = [
        Metric(run_id="r", task=task, name="acc", value=value, stderr=stderr, n=n)
        for task, value, stderr, n in (("a", 0.2, 0.03, 100), ("b", 0.8, 0.04, 300))
    ]
    micro, macro = metrics.group_metrics(parts, run_id="r", task="g", name="acc")
    assert micro.value == pytest.approx(0.65)
    assert macro.value == pytest.approx(0.5)
    assert micro.stderr == pytest.approx(math.sqrt((0.25 * 0.03) ** 2 + (0.75 * 0.04) ** 2))
    assert macro.stderr == pytest.approx(0.025)
    assert (micro.name, macro.name) == ("acc", "acc_macro")


def test_an_empty_group_has_no_number() -> None:
    assert [m.value for m in metrics.group_metrics([], run_id="r", task="g", name="acc")] == [
        None
    ] * 2
