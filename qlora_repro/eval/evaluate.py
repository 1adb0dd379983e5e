"""Evaluation as the pipeline calls it: all that the eval section asks for, as records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qlora_repro.config.schema import EvalConfig
from qlora_repro.distributed.process_group import Distribute, compute_locally
from qlora_repro.eval.held_out import classify, greedy, rouge
from qlora_repro.eval.lm_eval import evaluate
from qlora_repro.eval.perplexity import Reading, TokenLosses, perplexity, read_text
from qlora_repro.model.state_guard import OnProgress
from qlora_repro.records import LOSS, PERPLEXITY, Answer, Example, Metric

Records = tuple[list[Metric], list[Answer]]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What some scores need beside the model."""

    held_out: Sequence[Example] = ()  # rows kept out of training
    reference: Any = None  # the 16-bit model that a quantized one's distributions are compared with
    distribute: Distribute = compute_locally  # over processes that each hold the model


ALONE = Beside()


def score(
    model: Any,
    tokenizer: Any,
    cfg: EvalConfig,
    *,
    run_id: str,
    beside: Beside = ALONE,
    on_progress: OnProgress | None = None,
) -> Records:
    """Score the live model: lm-eval tasks, perplexity on a text, and the rows held out of training.

    A classifier is scored on the held-out rows and by nothing else. The model, the tokenizer and
    every random state are left as they were.
    """
    if model.get_output_embeddings() is None and beside.held_out:
        return classify(
            model,
            tokenizer,
            beside.held_out,
            run_id=run_id,
            batch_size=cfg.batch_size,
            distribute=beside.distribute,
        )
    metrics, answers = evaluate(
        model,
        tokenizer,
        cfg,
        run_id=run_id,
        on_progress=on_progress,
        distribute=beside.distribute,
    )
    for more in (_perplexity, _rouge):
        found, rows = more(model, tokenizer, cfg, run_id, beside)
        metrics += found
        answers += rows
    return metrics, answers


def _perplexity(
    model: Any, tokenizer: Any, cfg: EvalConfig, run_id: str, beside: Beside
) -> Records:
    if cfg.perplexity_file is None:
        return [], []
    found = perplexity(
        model,
        tokenizer,
        read_text(cfg.perplexity_file),
        reading=Reading(
            window=cfg.perplexity_window,
            stride=cfg.perplexity_stride,
            max_tokens=cfg.perplexity_tokens,
            batch_size=cfg.batch_size,
        ),
        reference=beside.reference,
        distribute=beside.distribute,
    )
    return found.metrics(run_id=run_id), token_answers(found, run_id=run_id)


def token_answers(found: TokenLosses, *, run_id: str) -> list[Answer]:
    """Return a record a token and score, so that two runs on one text can be paired.

    The document is the token in its place, as this reading of the text gives it context.
    """
    return [
        Answer(
            run_id=run_id,
            task=PERPLEXITY,
            name=name,
            doc_id=place,
            doc_hash=f"{found.reading}:{place}:{token}",
            value=value,
        )
        for name, values in _by_token(found)
        for place, (token, value) in enumerate(zip(found.ids, values, strict=True))
    ]


def _by_token(found: TokenLosses) -> Iterator[tuple[str, list[float]]]:
    yield LOSS, found.losses
    if found.compared:
        yield "kl", [token.kl for token in found.compared]
        yield "same_top", [token.same_top for token in found.compared]


def _rouge(model: Any, tokenizer: Any, cfg: EvalConfig, run_id: str, beside: Beside) -> Records:
    if not cfg.rouge:
        return [], []
    replies = greedy(
        model,
        tokenizer,
        [row.source for row in beside.held_out],
        batch_size=cfg.batch_size,
        max_new_tokens=cfg.max_new_tokens,
        distribute=beside.distribute,
    )
    return rouge(beside.held_out, replies, run_id=run_id)
