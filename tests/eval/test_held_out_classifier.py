"""Held-out rows of a classifier and of a regression, scored against the model's own outputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from qlora_repro.config.schema import RunConfig
from qlora_repro.eval.held_out import evaluate_classifier
from qlora_repro.records import Answer, Example, Metric
from qlora_repro.session import ModelSession

WORDS = ("yes", "no", "maybe so", "a day in May", "seven of nine", "two and two make four")


class Scored:
    """A random classifier's outputs on each row by itself, and what `classify` made of them."""

    def __init__(self, cfg: RunConfig, targets: list[str]) -> None:
        loaded = ModelSession(cfg, Path()).base()
        rows = [Example(source=w, target=t) for w, t in zip(WORDS, targets, strict=True)]
        self.outputs = torch.cat(
            [
                loaded.model(**loaded.tokenizer(row.source, return_tensors="pt")).logits.detach()
                for row in rows
            ]
        )  # (rows, labels)
        found: tuple[list[Metric], list[Answer]] = evaluate_classifier(
            loaded.model, loaded.tokenizer, rows, run_id="x", batch_size=4
        )
        self.metrics = {metric.name: metric for metric in found[0]}
        self.answers = found[1]


@pytest.fixture
def scored(configured: Callable[..., RunConfig]) -> Callable[..., Scored]:
    def make(labels: int, targets: list[str]) -> Scored:
        kind = ("model=tiny", "model.kind=classification", f"model.num_labels={labels}")
        return Scored(configured(*kind, "dtype=bf16", "dq=false"), targets)

    return make


def test_accuracy_is_the_share_of_rows_whose_likeliest_class_is_right(
    scored: Callable[..., Scored],
) -> None:
    found = scored(3, ["0", "1", "2", "0", "1", "2"])
    likeliest = found.outputs.argmax(dim=1).tolist()
    right = [float(a == b) for a, b in zip(likeliest, [0, 1, 2, 0, 1, 2], strict=True)]
    assert [answer.value for answer in found.answers] == right
    assert [answer.reply for answer in found.answers] == [str(k) for k in likeliest]
    assert found.metrics["acc"].value == pytest.approx(sum(right) / 6)
    assert found.metrics["acc"].n == 6


def test_a_regression_has_its_squared_error_and_both_correlations(
    scored: Callable[..., Scored],
) -> None:
    targets = [0.0, 1.5, 5.0, 2.2, 3.0, 4.1]
    found = scored(1, [str(target) for target in targets])
    outputs = found.outputs[:, 0].tolist()
    errors = [(o - t) ** 2 for o, t in zip(outputs, targets, strict=True)]
    assert [answer.value for answer in found.answers] == pytest.approx(errors, rel=1e-4)
    assert found.metrics["squared_error"].value == pytest.approx(sum(errors) / 6, rel=1e-4)
    wanted: Any = stats.pearsonr(outputs, targets), stats.spearmanr(outputs, targets)
    assert found.metrics["pearson"].value == pytest.approx(wanted[0].statistic, abs=1e-4)
    assert found.metrics["spearman"].value == pytest.approx(wanted[1].statistic)


def test_a_correlation_with_targets_that_are_all_the_same_is_missing(
    scored: Callable[..., Scored],
) -> None:
    found = scored(1, ["2.0"] * 6)
    assert found.metrics["pearson"].value is None
    assert found.metrics["spearman"].value is None
