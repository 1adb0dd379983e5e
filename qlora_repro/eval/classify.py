"""A sequence classifier on held-out rows (the GLUE column of Table 3): accuracy, or correlation."""

from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval.utils import hash_string
from scipy import stats
from torch import Tensor

from qlora_repro.data.encode import read_label
from qlora_repro.eval.score import mean_metric
from qlora_repro.eval.untouched import untouched
from qlora_repro.records import Answer, Example, Metric
from qlora_repro.together import Distribute, compute_locally

Records = tuple[list[Metric], list[Answer]]
TASK = "held_out"


def classify(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Example],
    *,
    run_id: str,
    batch_size: int,
    distribute: Distribute = compute_locally,
) -> Records:
    """Score a classifier's likeliest classes, or a regression's outputs; the model stays as it was.

    A model of one label is a regression, as for STS-B: beside its squared error, which pairs two
    runs row by row, stand GLUE's two correlations.
    """
    regression = model.config.num_labels == 1
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]

    def reply_to(batch: Sequence[Example]) -> list[float]:
        texts = [row.source for row in batch]
        read = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        logits: Tensor = model(**read.to(model.device)).logits  # (B, C)
        outputs: list[float] = (logits.squeeze(1) if regression else logits.argmax(dim=-1)).tolist()
        return outputs

    with untouched(model, tokenizer):
        by_batch = distribute(batches, lambda some: [reply_to(batch) for batch in some])
    replies = [reply for batch in by_batch for reply in batch]
    targets = [read_label(row.target, model.config.num_labels) for row in rows]
    name = "squared_error" if regression else "acc"
    answers = [
        Answer(
            run_id=run_id,
            task=TASK,
            name=name,
            doc_id=number,
            doc_hash=hash_string(f"{row.source}\0{row.target}"),
            value=(reply - target) ** 2 if regression else float(reply == target),
            reply=f"{reply:.4g}",
        )
        for number, (row, reply, target) in enumerate(zip(rows, replies, targets, strict=True))
    ]
    values = [answer.value for answer in answers]
    metrics = list(mean_metric(values, run_id=run_id, task=TASK, name=name))
    return [*metrics, *(_correlations(replies, targets, run_id) if regression else ())], answers


def _correlations(
    replies: Sequence[float], targets: Sequence[float], run_id: str
) -> Iterator[Metric]:
    """Yield Pearson's and Spearman's coefficients; None where either side is constant."""
    varied = len(set(replies)) > 1 and len(set(targets)) > 1
    for name, correlate in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        value = float(correlate(replies, targets).statistic) if varied else None
        yield Metric(run_id=run_id, task=TASK, name=name, value=value, stderr=None, n=len(replies))
