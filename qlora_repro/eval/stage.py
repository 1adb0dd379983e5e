"""Evaluation as the pipeline calls it: all that the eval section asks for, as records."""

from collections.abc import Sequence
from typing import Any

from qlora_repro.config import EvalConfig
from qlora_repro.eval.classify import classify
from qlora_repro.eval.harness import evaluate
from qlora_repro.eval.perplexity import TokenLosses, perplexity, read_text
from qlora_repro.eval.rouge import rouge
from qlora_repro.eval.untouched import OnProgress
from qlora_repro.records import Answer, Example, Metric

Records = tuple[list[Metric], list[Answer]]


def score(
    model: Any,
    tokenizer: Any,
    cfg: EvalConfig,
    *,
    run_id: str,
    held_out: Sequence[Example],
    on_progress: OnProgress | None = None,
) -> Records:
    """Score the live model: lm-eval tasks, perplexity on a text, and the rows held out of training.

    A classifier is scored on the held-out rows and by nothing else. The model, the tokenizer and
    every random state are left as they were.
    """
    if model.get_output_embeddings() is None and held_out:
        return classify(model, tokenizer, held_out, run_id=run_id, batch_size=cfg.batch_size)
    metrics, answers = evaluate(model, tokenizer, cfg, run_id=run_id, on_progress=on_progress)
    for more in (_perplexity, _rouge):
        found, rows = more(model, tokenizer, cfg, run_id, held_out)
        metrics += found
        answers += rows
    return metrics, answers


def _perplexity(
    model: Any, tokenizer: Any, cfg: EvalConfig, run_id: str, held_out: Sequence[Example]
) -> Records:
    if cfg.perplexity_file is None:
        return [], []
    found = perplexity(
        model,
        tokenizer,
        read_text(cfg.perplexity_file),
        window=cfg.perplexity_window,
        max_tokens=cfg.perplexity_tokens,
        batch_size=cfg.batch_size,
    )
    return found.metrics(run_id=run_id), token_answers(found, run_id=run_id)


def token_answers(found: TokenLosses, *, run_id: str) -> list[Answer]:
    """Return a record a token, so that two runs on one text can be paired."""
    return [
        Answer(
            run_id=run_id,
            task="perplexity",
            name="nats_per_token",
            doc_id=place,
            doc_hash=f"{place}:{token}",
            value=loss,
        )
        for place, (token, loss) in enumerate(zip(found.ids, found.losses, strict=True))
    ]


def _rouge(
    model: Any, tokenizer: Any, cfg: EvalConfig, run_id: str, held_out: Sequence[Example]
) -> Records:
    if not cfg.rouge:
        return [], []
    return rouge(
        model,
        tokenizer,
        held_out,
        run_id=run_id,
        batch_size=cfg.batch_size,
        max_new_tokens=cfg.max_new_tokens,
    )
