"""lm-eval in process on the live model: scores, standard errors and one record a question."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lm_eval.evaluator
import numpy as np
import torch
from lm_eval.api.metrics import mean as lm_eval_mean

from qlora_repro.config.schema import EvalConfig
from qlora_repro.distributed.process_group import Distribute, compute_locally
from qlora_repro.errors import ConfigError
from qlora_repro.eval import metrics as score
from qlora_repro.eval import procedural_tasks, task_registry
from qlora_repro.eval.language_models import DistributedLM, SharedContextLM
from qlora_repro.model.state_guard import OnProgress, quiet, untouched
from qlora_repro.records import Answer, Metric

SEED = 1234  # lm-eval's own: draws few-shot examples, the same for every model
Loaded = tuple[dict[str, Any], dict[str, Any]]  # tasks and groups by name


def evaluate(
    model: Any,
    tokenizer: Any,
    cfg: EvalConfig,
    *,
    run_id: str,
    on_progress: OnProgress | None = None,
    distribute: Distribute = compute_locally,
) -> tuple[list[Metric], list[Answer]]:
    """Score the live model on `cfg.tasks` and leave it, and every random state, as they were.

    `on_progress(done, total)` counts this process's requests. lm-eval's response cache, which knows
    nothing of the model, is never used. Raises ConfigError for a task that does not exist or does
    not fit the model, DataError for data that cannot be read.
    """
    if not cfg.tasks:
        return [], []
    _check_model(model, tokenizer, cfg)
    with quiet(on_progress), untouched(model, tokenizer):
        tasks, groups = _load(cfg)
        lm = _language_model(model, tokenizer, cfg, names=list(tasks))
        lm.distribute = distribute
        random.seed(0)  # lm-eval's own three seeds, for tasks that sample
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        results = lm_eval.evaluator.evaluate(
            lm,
            {"tasks": tasks, "groups": groups},
            limit=cfg.limit,
            bootstrap_iters=0,  # standard errors are ours: lm-eval's start processes and print
            log_samples=True,
            apply_chat_template=cfg.apply_chat_template,
            fewshot_as_multiturn=cfg.apply_chat_template,
        )
        samples: dict[str, list[dict[str, Any]]] = results["samples"]
        metrics = list(_metrics(samples, tasks, groups, run_id=run_id))
    answers = [
        answer
        for task, rows in samples.items()
        for answer in score.answers(rows, run_id=run_id, task=task)
    ]
    return metrics, answers


def _check_model(model: Any, tokenizer: Any, cfg: EvalConfig) -> None:
    if model.get_output_embeddings() is None:
        raise ConfigError(
            f"eval={cfg.name} scores text, and {type(model).__name__} has no language-model head; "
            "use model.kind=causal or seq2seq, or eval=none"
        )
    if cfg.apply_chat_template and not tokenizer.chat_template:
        raise ConfigError(
            "eval.apply_chat_template is true, and this model's tokenizer has no chat template; "
            "use eval.apply_chat_template=false"
        )


def _language_model(
    model: Any, tokenizer: Any, cfg: EvalConfig, *, names: list[str]
) -> DistributedLM:
    """Wrap the live model for lm-eval, at a fixed batch size.

    Published tasks run through lm-eval's own HFLM. When only the embedded tasks are asked for, a
    decoder-only model reads each question once instead of once a choice.
    """
    seq2seq = bool(model.config.is_encoder_decoder)
    embedded = all(name in procedural_tasks.DOCS for name in names)
    wrapper = SharedContextLM if embedded and not seq2seq else DistributedLM
    return wrapper(
        pretrained=model,
        tokenizer=tokenizer,
        backend="seq2seq" if seq2seq else "causal",
        batch_size=cfg.batch_size,
        softmax_dtype="float32",  # in bfloat16 the likelihoods of close choices tie
    )


def _load(cfg: EvalConfig) -> Loaded:
    manager = task_registry.find(cfg.tasks, include_path=cfg.include_path)
    questions: Sequence[procedural_tasks.Question] = []
    if any(name in procedural_tasks.DOCS for name in cfg.tasks):
        questions = procedural_tasks.held_out(cfg.kinds, per_task=cfg.n, seed=cfg.seed)
    tasks: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    for name in cfg.tasks:
        spec: task_registry.Spec = name
        if name in procedural_tasks.DOCS:
            spec = procedural_tasks.specification(
                name, questions, template=cfg.template, max_new_tokens=cfg.max_new_tokens
            )
        loaded = task_registry.load(name, spec, manager)
        twice = sorted(tasks.keys() & loaded["tasks"].keys())
        if twice:
            raise ConfigError(
                f"eval.tasks names {', '.join(twice[:3])} twice, the second time through {name}; "
                "each task may be asked for once"
            )
        tasks |= loaded["tasks"]
        groups |= loaded.get("groups", {})
    for task in tasks.values():
        _set_up(task, num_fewshot=cfg.num_fewshot)
    return tasks, groups


def _set_up(task: Any, *, num_fewshot: int | None) -> None:
    """Set the number of shots as lm-eval does: a task that says 0 in its YAML keeps 0."""
    own = task.get_config("num_fewshot")
    if own != 0 and (num_fewshot is not None or own is None):
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=SEED)
    averages = getattr(task, "_aggregation_list", {})
    for metric, aggregate in averages.items():
        if aggregate is lm_eval_mean:
            averages[metric] = score.mean_of_scored


def _metrics(
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    tasks: Mapping[str, Any],
    groups: Mapping[str, Any],
    *,
    run_id: str,
) -> Iterator[Metric]:
    """Yield the metrics of every task, of the kinds within an embedded task, and of every group."""
    by_task: dict[str, list[Metric]] = {}
    for name, rows in samples.items():
        aggregation = tasks[name].aggregation()
        by_task[name] = list(
            score.task_metrics(rows, aggregation=aggregation, run_id=run_id, task=name)
        )
        yield from by_task[name]
        if name in procedural_tasks.DOCS:
            yield from procedural_tasks.details(rows, run_id=run_id, task=name)
    for name, group in groups.items():
        yield from _group_averages(group, by_task, run_id=run_id, name=name)


def _group_averages(
    group: Any, by_task: Mapping[str, Sequence[Metric]], *, run_id: str, name: str
) -> Iterator[Metric]:
    """Yield both averages of each metric that the group's YAML says may be averaged."""
    parts: dict[str, list[Metric]] = defaultdict(list)
    for task in group.get_all_tasks():
        for metric in by_task[task.task_name]:
            parts[metric.name].append(metric)
    for listed in group.aggregate_metric_list or []:
        for label in parts:  # "exact_match", or "exact_match,strict-match" with filters
            if label.split(",")[0] == listed.metric:
                yield from score.group_metrics(parts[label], run_id=run_id, task=name, name=label)
