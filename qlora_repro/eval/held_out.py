"""Scores on rows held out of training: a classifier's, and RougeL of greedy answers.

Classifiers are the GLUE column of Table 3: accuracy, or correlation for a regression. RougeL
against the rows' targets is that of Figures 2 and 4 and of Table 3.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.utils import hash_string
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from torch import Tensor

from qlora_repro.data.tokenization import parse_label
from qlora_repro.distributed.process_group import Distribute, compute_locally
from qlora_repro.eval.metrics import finite_or_none, mean_metric
from qlora_repro.model.library_logging import silence_lm_eval
from qlora_repro.model.state_guard import FiniteLogits, preserve_model_state
from qlora_repro.records import Answer, Example, Metric

Records = tuple[list[Metric], list[Answer]]
HELD_OUT_TASK = "held_out"


def evaluate_classifier(
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
        outputs = logits.squeeze(1) if regression else logits.argmax(dim=-1).float()
        outputs = outputs.masked_fill(~logits.isfinite().all(dim=-1), torch.nan)
        replies: list[float] = outputs.tolist()
        return replies

    with preserve_model_state(model, tokenizer):
        by_batch = distribute(batches, lambda some: [reply_to(batch) for batch in some])
    replies = [reply for batch in by_batch for reply in batch]
    targets = [parse_label(row.target, model.config.num_labels) for row in rows]
    name = "squared_error" if regression else "acc"
    values = [
        finite_or_none((reply - target) ** 2 if regression or reply != reply else reply == target)
        for reply, target in zip(replies, targets, strict=True)
    ]
    texts = [f"{reply:.4g}" if reply == reply else None for reply in replies]
    metrics, answers = _score_rows(
        rows, texts, values, run_id=run_id, task=HELD_OUT_TASK, name=name
    )
    return [*metrics, *(_correlations(replies, targets, run_id) if regression else ())], answers


def _score_rows(
    rows: Sequence[Example],
    replies: Sequence[str | None],
    values: Sequence[float | None],
    *,
    run_id: str,
    task: str,
    name: str,
) -> Records:
    """Return the mean of the rows' scores, and an answer a row."""
    answers = [
        Answer(
            run_id=run_id,
            task=task,
            name=name,
            doc_id=number,
            doc_hash=hash_string(f"{row.source}\0{row.target}"),
            value=value,
            reply=reply or "",
        )
        for number, (row, reply, value) in enumerate(zip(rows, replies, values, strict=True))
    ]
    return list(mean_metric(values, run_id=run_id, task=task, name=name)), answers


def _correlations(
    replies: Sequence[float], targets: Sequence[float], run_id: str
) -> Iterator[Metric]:
    """Yield Pearson's and Spearman's coefficients; None where either side is constant."""
    pairs = [pair for pair in zip(replies, targets, strict=True) if pair[0] == pair[0]]
    outputs, wanted = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    varied = len(set(outputs)) > 1 and len(set(wanted)) > 1
    for name, correlate in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        value = float(correlate(outputs, wanted).statistic) if varied else None
        yield Metric(
            run_id=run_id, task=HELD_OUT_TASK, name=name, value=value, stderr=None, n=len(pairs)
        )


def rouge_l(answer: str, target: str) -> float:
    """Return the F-measure of the longest common subsequence, stems compared, in [0, 1].

    Natural Instructions scores with stems; the paper follows it.

    >>> rouge_l("the cats sat", "the cat sat")
    1.0
    >>> rouge_l("", "the cat sat")
    0.0
    """
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return float(scorer.score(target, answer)["rougeL"].fmeasure)


def score_rouge(rows: Sequence[Example], replies: Sequence[str | None], *, run_id: str) -> Records:
    """Score the reply to each row's source against its target; None has no score."""
    if not rows:
        return [], []
    values = [
        None if reply is None else rouge_l(reply, row.target)
        for row, reply in zip(rows, replies, strict=True)
    ]
    return _score_rows(rows, replies, values, run_id=run_id, task="rouge", name="rougeL")


def generate_greedily(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    *,
    batch_size: int,
    max_new_tokens: int,
    distribute: Distribute = compute_locally,
) -> list[str | None]:
    """Return the greedy answer to each source, in order, in batches of like length.

    One whose logits were not finite has none.

    Sources are written out already: prompt template included. An answer ends at end of sequence
    or after `max_new_tokens`. Padding is on the left for decoder-only models, so that every answer
    starts in one column. Leaves the model as it found it.
    """
    order = sorted(range(len(sources)), key=lambda number: -len(sources[number]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    replies: list[str | None] = [None] * len(sources)

    def answer(some: Sequence[list[int]]) -> list[list[str | None]]:
        return [
            _generate_batch(model, tokenizer, [sources[k] for k in b], max_new_tokens) for b in some
        ]

    with silence_lm_eval(), preserve_model_state(model, tokenizer):
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        seq2seq = bool(model.config.is_encoder_decoder)
        tokenizer.padding_side = "right" if seq2seq else "left"
        for batch, texts in zip(batches, distribute(batches, answer), strict=True):
            for number, text in zip(batch, texts, strict=True):
                replies[number] = None if text is None else text.strip()
    return replies


def _generate_batch(
    model: Any, tokenizer: Any, sources: list[str], max_new_tokens: int
) -> list[str | None]:
    read, watch = tokenizer(sources, return_tensors="pt", padding=True), FiniteLogits()
    written = generate_tokens(model, tokenizer, read, max_new_tokens=max_new_tokens, watch=watch)
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return [None if row in watch.failed_rows() else text for row, text in enumerate(texts)]


def generate_tokens(
    model: Any, tokenizer: Any, read: Any, *, max_new_tokens: int, watch: FiniteLogits
) -> torch.Tensor:
    """Return the new tokens of a greedy batch, (B, at most max_new_tokens); `watch` looks on."""
    ids: torch.Tensor = model.generate(
        input_ids=read["input_ids"].to(model.device),
        attention_mask=read["attention_mask"].to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        logits_processor=[watch],
    )
    return ids if model.config.is_encoder_decoder else ids[:, read["input_ids"].shape[1] :]
