"""RougeL of greedy answers to held-out targets (paper: Figures 2 and 4, Table 3)."""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.utils import hash_string
from rouge_score.rouge_scorer import RougeScorer

from qlora_repro.eval.score import mean_metric
from qlora_repro.eval.untouched import quiet, untouched
from qlora_repro.records import Answer, Example, Metric
from qlora_repro.together import Distribute, compute_locally


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


def rouge(
    rows: Sequence[Example], replies: Sequence[str], *, run_id: str
) -> tuple[list[Metric], list[Answer]]:
    """Score the reply to each row's source against its target."""
    answers = [
        Answer(
            run_id=run_id,
            task="rouge",
            name="rougeL",
            doc_id=number,
            doc_hash=hash_string(f"{row.source}\0{row.target}"),
            value=rouge_l(reply, row.target),
            reply=reply,
        )
        for number, (row, reply) in enumerate(zip(rows, replies, strict=True))
    ]
    values = [answer.value for answer in answers]
    if not values:
        return [], []
    return list(mean_metric(values, run_id=run_id, task="rouge", name="rougeL")), answers


def greedy(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    *,
    batch_size: int,
    max_new_tokens: int,
    distribute: Distribute = compute_locally,
) -> list[str]:
    """Return the greedy answer to each source, in order, in batches of like length.

    Sources are written out already: prompt template included. An answer ends at end of sequence
    or after `max_new_tokens`. Padding is on the left for decoder-only models, so that every answer
    starts in one column. Leaves the model as it found it.
    """
    order = sorted(range(len(sources)), key=lambda number: -len(sources[number]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    replies = [""] * len(sources)

    def answer(some: Sequence[list[int]]) -> list[list[str]]:
        return [_answers(model, tokenizer, [sources[k] for k in b], max_new_tokens) for b in some]

    with quiet(), untouched(model, tokenizer):
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        seq2seq = bool(model.config.is_encoder_decoder)
        tokenizer.padding_side = "right" if seq2seq else "left"
        for batch, texts in zip(batches, distribute(batches, answer), strict=True):
            for number, text in zip(batch, texts, strict=True):
                replies[number] = text.strip()
    return replies


def _answers(model: Any, tokenizer: Any, sources: list[str], max_new_tokens: int) -> list[str]:
    read = tokenizer(sources, return_tensors="pt", padding=True)
    written = generated(model, tokenizer, read, max_new_tokens=max_new_tokens)
    texts: list[str] = tokenizer.batch_decode(written, skip_special_tokens=True)
    return texts


def generated(model: Any, tokenizer: Any, read: Any, *, max_new_tokens: int) -> torch.Tensor:
    """Return the new tokens of a greedy batch, (B, at most max_new_tokens)."""
    ids: torch.Tensor = model.generate(
        input_ids=read["input_ids"].to(model.device),
        attention_mask=read["attention_mask"].to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    return ids if model.config.is_encoder_decoder else ids[:, read["input_ids"].shape[1] :]
