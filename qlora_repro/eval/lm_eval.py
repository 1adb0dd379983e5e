"""lm-eval on a model in this process: tasks by name, their scores, and one record a question.

Tasks are lm-eval's own, the embedded procedural ones, or those of a folder of the user's.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import jinja2
import lm_eval.evaluator
import lm_eval.tasks
import numpy as np
import torch
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the hub's own client
from lm_eval.api.metrics import mean as lm_eval_mean
from lm_eval.tasks import TaskManager

from qlora_repro.config.messages import nearest_names
from qlora_repro.config.schema import EvalConfig
from qlora_repro.distributed.process_group import Distribute, compute_locally
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.eval import procedural_tasks
from qlora_repro.eval.language_models import DistributedLM, SharedContextLM
from qlora_repro.eval.metrics import (
    answer_records,
    group_metrics,
    mean_of_scored,
    task_metrics,
)
from qlora_repro.model.library_logging import OnProgress, silence_lm_eval
from qlora_repro.model.state_guard import preserve_model_state
from qlora_repro.records import Answer, Metric

BUILT_IN_TASKS = Path(lm_eval.tasks.__file__).parent
LOCAL_READERS = ("json", "csv", "parquet", "text", "arrow")  # of `datasets`, for local files
TaskSpec = str | dict[str, Any]


def index_tasks(names: Sequence[str], *, include_path: str | None) -> TaskManager:
    """Return an index that holds every name and all their members.

    lm-eval ships some 14,000 tasks and takes ten seconds and more to index them, so they are left
    out when our own and the user's folder have what was asked for.
    """
    folders = [procedural_tasks.TASK_FOLDER]
    if include_path is not None:
        folder = Path(include_path).expanduser()
        if not folder.is_dir():
            raise ConfigError(
                f"eval.include_path is {include_path}, which is not a folder; it must be one that "
                "holds lm-eval task YAMLs"
            )
        folders.append(folder)
    manager = TaskManager(include_defaults=False, include_path=list(folders))
    if not all(is_complete(name, manager) for name in names):
        manager = TaskManager(include_defaults=False, include_path=[BUILT_IN_TASKS, *folders])
    for name in names:
        if name not in manager.task_index:
            raise ConfigError(describe_unknown_task(name, manager, include_path))
    return manager


def describe_unknown_task(name: str, manager: TaskManager, include_path: str | None) -> str:
    """Say that a task name is not known, and which names come nearest."""
    near = nearest_names(name, manager.all_tasks, n=5, cutoff=0.5)
    message = f"eval.tasks has {name!r}, which lm-eval does not know"
    message += f"; the nearest names are {', '.join(near)}" if near else ""
    if include_path is None:
        return message + "; a task of your own needs eval.include_path=FOLDER"
    folder = Path(include_path).expanduser().resolve()
    names = sorted(
        key
        for key, entry in manager.task_index.items()
        if entry.yaml_path is not None and entry.yaml_path.resolve().is_relative_to(folder)
    )
    return f"{message}; {include_path} holds {', '.join(names) or 'no task YAML that can be read'}"


def task_members(name: str, manager: TaskManager) -> Iterator[str]:
    """Yield the names that a group or a tag is made of, one level down; nothing for a task."""
    entry = manager.task_index.get(name)
    if entry is None:
        return
    if entry.kind.name == "TAG":
        yield from sorted(entry.tags)
    items = (entry.cfg or {}).get("task")
    if entry.kind.name == "GROUP" and isinstance(items, list):
        for item in items:
            child = item if isinstance(item, str) else item.get("group") or item.get("task")
            if isinstance(child, str) and (isinstance(item, str) or len(item) <= 2):
                yield child  # an item with more keys may define its task on the spot


def is_complete(name: str, manager: TaskManager) -> bool:
    """Whether the index holds a name and everything that it is made of."""
    if name not in manager.task_index:
        return False
    return all(is_complete(child, manager) for child in task_members(name, manager))


def task_datasets(name: str, manager: TaskManager) -> set[str]:
    """Return the data sets (hub ids or reader names) that a task or group reads."""
    entry = manager.task_index.get(name)
    path = (entry.cfg or {}).get("dataset_path") if entry is not None else None
    names = {path} if isinstance(path, str) else set()
    return names.union(*(task_datasets(child, manager) for child in task_members(name, manager)))


def load_task(name: str, spec: TaskSpec, manager: TaskManager) -> dict[str, dict[str, Any]]:
    """Load one task, group or tag with its data: {"tasks": {name: Task}, "groups": {…}}."""
    try:
        loaded: dict[str, dict[str, Any]] = {**manager.load([spec])}
    except (OSError, ValueError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise DataError(describe_unreachable(name, task_datasets(name, manager), error)) from error
    except (TypeError, KeyError, ImportError, AttributeError, jinja2.TemplateError) as error:
        raise ConfigError(
            f"task {name} cannot be built from its YAML ({type(error).__name__}: "
            f"{first_line(error)}); lm-eval's task guide lists the fields that it must hold"
        ) from error
    return loaded


def describe_unreachable(name: str, paths: set[str], error: Exception) -> str:
    """Say which data set of a task could not be loaded, why, and what helps."""
    hub = sorted(path for path in paths if path not in LOCAL_READERS)
    cause = f"{type(error).__name__}: {first_line(error)}"
    if not hub:
        return (
            f"the data of task {name} cannot be read ({cause}); check the data_files under "
            "dataset_kwargs in its YAML, which start from the working directory"
        )
    commands = "; ".join(f"hf download --repo-type dataset {path}" for path in hub)
    return (
        f"task {name} needs the data set {', '.join(hub)} and it cannot be loaded ({cause}); "
        f"with a connection run `{commands}` once, then HF_HUB_OFFLINE=1 keeps to that copy"
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, without a full stop."""
    return (str(error).strip().splitlines() or ["no details"])[0].rstrip(". ")


FEWSHOT_SEED = 1234  # lm-eval's own: draws few-shot examples, the same for every model
TasksAndGroups = tuple[dict[str, Any], dict[str, Any]]  # tasks and groups by name


def evaluate_tasks(
    model: Any,
    tokenizer: Any,
    cfg: EvalConfig,
    *,
    run_id: str,
    on_progress: OnProgress | None = None,
    distribute: Distribute = compute_locally,
) -> tuple[list[Metric], list[Answer]]:
    """Score a model on `cfg.tasks`; it and every random state are left as they were.

    lm-eval's response cache, which knows nothing of the model, is never used.

    Args:
        model: The model to score.
        tokenizer: Its tokenizer.
        cfg: The eval section.
        run_id: What the records are filed under.
        on_progress: Called with (done, total) of this process's requests.
        distribute: Divides requests among processes.

    Raises:
        ConfigError: A task does not exist or does not fit the model.
        DataError: A task's data cannot be read.
    """
    if not cfg.tasks:
        return [], []
    _check_model(model, tokenizer, cfg)
    with silence_lm_eval(on_progress), preserve_model_state(model, tokenizer):
        tasks, groups = _load_tasks(cfg)
        lm = _language_model(model, tokenizer, cfg, names=list(tasks))
        lm.distribute = distribute
        random.seed(0)  # lm-eval's own three seeds, for tasks that sample
        np.random.seed(FEWSHOT_SEED)
        torch.manual_seed(FEWSHOT_SEED)
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
        for sample in [sample for rows in samples.values() for sample in rows]:
            if any(arguments in lm.failed for arguments in sample["arguments"]):
                sample.update(dict.fromkeys(sample["metrics"]))  # no score can be read
        metrics = list(_read_metrics(samples, tasks, groups, run_id=run_id))
    answers = [
        answer
        for task, rows in samples.items()
        for answer in answer_records(rows, run_id=run_id, task=task)
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
    """Wrap a model for lm-eval, at a fixed batch size.

    Published tasks run through lm-eval's own HFLM. When only the embedded tasks are asked for, a
    decoder-only model reads each question once instead of once a choice.
    """
    seq2seq = bool(model.config.is_encoder_decoder)
    embedded = all(name in procedural_tasks.DOCUMENTS for name in names)
    wrapper = SharedContextLM if embedded and not seq2seq else DistributedLM
    return wrapper(
        pretrained=model,
        tokenizer=tokenizer,
        backend="seq2seq" if seq2seq else "causal",
        batch_size=cfg.batch_size,
        softmax_dtype="float32",  # in bfloat16 the likelihoods of close choices tie
    )


def _load_tasks(cfg: EvalConfig) -> TasksAndGroups:
    manager = index_tasks(cfg.tasks, include_path=cfg.include_path)
    questions: Sequence[procedural_tasks.Question] = []
    if any(name in procedural_tasks.DOCUMENTS for name in cfg.tasks):
        questions = procedural_tasks.held_out_questions(cfg.kinds, per_task=cfg.n, seed=cfg.seed)
    tasks: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    for name in cfg.tasks:
        spec: TaskSpec = name
        if name in procedural_tasks.DOCUMENTS:
            spec = procedural_tasks.build_task(
                name, questions, template=cfg.template, max_new_tokens=cfg.max_new_tokens
            )
        loaded = load_task(name, spec, manager)
        twice = sorted(tasks.keys() & loaded["tasks"].keys())
        if twice:
            raise ConfigError(
                f"eval.tasks names {', '.join(twice[:3])} twice, the second time through {name}; "
                "each task may be asked for once"
            )
        tasks |= loaded["tasks"]
        groups |= loaded.get("groups", {})
    for task in tasks.values():
        _set_shots(task, num_fewshot=cfg.num_fewshot)
    return tasks, groups


def _set_shots(task: Any, *, num_fewshot: int | None) -> None:
    """Set the number of shots as lm-eval does: a task that says 0 in its YAML keeps 0."""
    in_yaml = task.get_config("num_fewshot")
    if in_yaml != 0 and (num_fewshot is not None or in_yaml is None):
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    averages = getattr(task, "_aggregation_list", {})
    for metric, aggregate in averages.items():
        if aggregate is lm_eval_mean:
            averages[metric] = mean_of_scored


def _read_metrics(
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
        by_task[name] = list(task_metrics(rows, aggregation=aggregation, run_id=run_id, task=name))
        yield from by_task[name]
        if name in procedural_tasks.DOCUMENTS:
            yield from procedural_tasks.detail_metrics(rows, run_id=run_id, task=name)
    for name, group in groups.items():
        yield from _average_group(group, by_task, run_id=run_id, name=name)


def _average_group(
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
                yield from group_metrics(parts[label], run_id=run_id, task=name, name=label)
