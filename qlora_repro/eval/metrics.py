"""lm-eval's samples as records: aggregates with standard errors, and one answer a question."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from lm_eval.api.metrics import mean as lm_eval_mean

from qlora_repro.records import Answer, Metric
from qlora_repro.stats.intervals import bootstrap_stderr

Sample = Mapping[str, Any]


def finite_or_none(value: Any) -> float | None:
    """Return a score as a float; None when there is none, or it is no finite number.

    >>> finite_or_none(True), finite_or_none(None), finite_or_none(math.nan), finite_or_none((0, 1))
    (1.0, None, None, None)
    """
    try:
        score = float(value)
    except (TypeError, ValueError):
        return None
    return score if math.isfinite(score) else None


def finite_scores(values: Sequence[Any]) -> list[float]:
    """Return the scores among some values, in order."""
    return [score for value in values if (score := finite_or_none(value)) is not None]


def mean_of_scored(values: Sequence[Any]) -> float:
    """Average what has a score; nan when nothing has. lm-eval's own mean fails on a None."""
    scored = finite_scores(values)
    return sum(scored) / len(scored) if scored else math.nan


def mean_metric(values: Sequence[Any], *, run_id: str, task: str, name: str) -> Iterator[Metric]:
    """Yield the mean of the scored values and, when some are missing, the share that is.

    `n` counts the scored questions; the metric `<name>_missing` counts all of them.
    """
    scored = finite_scores(values)
    average = sum(scored) / len(scored) if scored else None
    stderr = None
    if average is not None and len(scored) > 1:
        variance = sum((value - average) ** 2 for value in scored) / (len(scored) - 1)
        stderr = math.sqrt(variance / len(scored))
    yield Metric(run_id=run_id, task=task, name=name, value=average, stderr=stderr, n=len(scored))
    yield from missing_metric(len(scored), len(values), run_id=run_id, task=task, name=name)


def missing_metric(
    scored: int, asked: int, *, run_id: str, task: str, name: str
) -> Iterator[Metric]:
    """Yield the share of questions without a score, where there are any."""
    if scored < asked:
        share = 1 - scored / asked
        yield Metric(
            run_id=run_id, task=task, name=f"{name}_missing", value=share, stderr=None, n=asked
        )


def group_by_metric(samples: Sequence[Sample]) -> dict[tuple[str, str], list[Sample]]:
    """Group lm-eval's samples by (metric, the name it is recorded under).

    A task may score one reply through several filters; the filter then joins the name.
    """
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        for metric in sample["metrics"]:
            single = sample["filter"] == "none"
            groups[metric, metric if single else f"{metric},{sample['filter']}"].append(sample)
    return groups


def task_metrics(
    samples: Sequence[Sample], *, aggregation: Mapping[str, Any], run_id: str, task: str
) -> Iterator[Metric]:
    """Yield every aggregate of one task, with its standard error and its number of questions."""
    for (metric, name), rows in group_by_metric(samples).items():
        values = [row[metric] for row in rows]
        aggregate = aggregation.get(metric, mean_of_scored)
        if aggregate in (mean_of_scored, lm_eval_mean):
            yield from mean_metric(values, run_id=run_id, task=task, name=name)
            continue
        scored = [value for value in values if value is not None]
        yield Metric(
            run_id=run_id,
            task=task,
            name=name,
            value=finite_or_none(aggregate(scored)) if scored else None,
            stderr=bootstrap_stderr(partial(_finite_aggregate, aggregate), scored),
            n=len(scored),
        )
        yield from missing_metric(len(scored), len(values), run_id=run_id, task=task, name=name)


def _finite_aggregate(aggregate: Callable[[Sequence[Any]], Any], values: Sequence[Any]) -> Any:
    return finite_or_none(aggregate(values))


def answer_records(samples: Sequence[Sample], *, run_id: str, task: str) -> Iterator[Answer]:
    """Yield one record a question and metric; a metric that is no number per question has none."""
    for (metric, name), rows in group_by_metric(samples).items():
        for row in rows:
            if isinstance(row[metric], tuple | list | dict):  # F1 keeps (right, chosen) pairs
                continue
            replies = row["filtered_resps"]
            yield Answer(
                run_id=run_id,
                task=task,
                name=name,
                doc_id=row["doc_id"],
                doc_hash=row["doc_hash"],
                value=finite_or_none(row[metric]),
                reply=replies[0] if replies and isinstance(replies[0], str) else "",
            )


def group_metrics(
    parts: Sequence[Metric], *, run_id: str, task: str, name: str
) -> Iterator[Metric]:
    """Yield both averages over a group's tasks: by question (`name`) and by task (`name_macro`).

    The paper's MMLU is the mean of subjects in some reports and of questions in others; lm-eval
    weighs by question. Tasks are fixed, not drawn, so only the questions add to the errors.
    """
    scored = [(part.value, part) for part in parts if part.value is not None and part.n]
    total = sum(part.n for _, part in scored)
    errors = [part.stderr for _, part in scored if part.stderr is not None]
    for label, weights in (
        (name, [part.n / total for _, part in scored]),
        (f"{name}_macro", [1 / len(scored)] * len(scored) if scored else []),
    ):
        value = stderr = None
        if scored:
            value = math.fsum(w * v for w, (v, _) in zip(weights, scored, strict=True))
        if scored and len(errors) == len(scored):
            stderr = math.hypot(*(w * e for w, e in zip(weights, errors, strict=True)))
        yield Metric(run_id=run_id, task=task, name=label, value=value, stderr=stderr, n=total)
