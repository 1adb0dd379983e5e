"""Everything that the eval section asks for, scored on one model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qlora_repro.config.schema import EvalConfig
from qlora_repro.distributed.process_group import Distribute, compute_locally
from qlora_repro.eval.held_out import evaluate_classifier, generate_greedily, score_rouge
from qlora_repro.eval.lm_eval import evaluate_tasks
from qlora_repro.eval.perplexity import Windowing, measure_perplexity, read_text
from qlora_repro.model.library_logging import OnProgress
from qlora_repro.records import Answer, Example, Metric


@dataclass(frozen=True, kw_only=True)
class EvalContext:
    """What some scores need besides the model."""

    held_out: Sequence[Example] = ()  # rows kept out of training
    reference: Any = None  # the 16-bit model that a quantized one's distributions are compared with
    distribute: Distribute = compute_locally  # over processes that each hold the model


DEFAULT_CONTEXT = EvalContext()


def evaluate_model(
    model: Any,
    tokenizer: Any,
    cfg: EvalConfig,
    *,
    run_id: str,
    context: EvalContext = DEFAULT_CONTEXT,
    on_progress: OnProgress | None = None,
) -> tuple[list[Metric], list[Answer]]:
    """Score a model: lm-eval tasks, perplexity on a text, and RougeL on the held-out rows.

    A classifier is scored on the held-out rows and by nothing else. The model, the tokenizer and
    every random state are left as they were.

    Args:
        model: The model to score.
        tokenizer: Its tokenizer.
        cfg: The eval section.
        run_id: What the records are filed under.
        context: What some scores need besides the model.
        on_progress: Called with (done, total) of this process's requests to lm-eval.
    """
    distribute, rows = context.distribute, context.held_out
    if model.get_output_embeddings() is None and rows:
        return evaluate_classifier(
            model,
            tokenizer,
            rows,
            run_id=run_id,
            batch_size=cfg.batch_size,
            distribute=distribute,
        )
    metrics, answers = evaluate_tasks(
        model, tokenizer, cfg, run_id=run_id, on_progress=on_progress, distribute=distribute
    )
    if cfg.perplexity_file is not None:
        losses = measure_perplexity(
            model,
            tokenizer,
            read_text(cfg.perplexity_file),
            windowing=Windowing(
                window=cfg.perplexity_window,
                stride=cfg.perplexity_stride,
                max_tokens=cfg.perplexity_tokens,
                batch_size=cfg.batch_size,
            ),
            reference=context.reference,
            distribute=distribute,
        )
        metrics += losses.metrics(run_id=run_id)
        answers += losses.answers(run_id=run_id)
    if cfg.rouge:
        replies = generate_greedily(
            model,
            tokenizer,
            [row.source for row in rows],
            batch_size=cfg.batch_size,
            max_new_tokens=cfg.max_new_tokens,
            distribute=distribute,
        )
        rouge_metrics, rouge_answers = score_rouge(rows, replies, run_id=run_id)
        metrics += rouge_metrics
        answers += rouge_answers
    return metrics, answers
