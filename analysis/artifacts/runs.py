"""Evaluated runs: the settings that decided each, its scores by question, and groups of them."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qlora_repro.stats.intervals import Array
from qlora_repro.store.load import load_answers, load_origins, load_runs, load_settings

RunsBySeed = Mapping[int, "EvaluatedRun"]
# of training, what is tuned for each method: runs are compared though they differ in it
TUNED_PER_METHOD = (
    "lr",
    "optim",
    "schedule",
    "warmup_steps",
    "max_grad_norm",
    "beta2",
    "weight_decay",
)


@dataclass(frozen=True, kw_only=True)
class EvaluatedRun:
    """One evaluation of one run."""

    run_id: str
    digest: str  # of the evaluation's settings
    folder: str
    settings: Mapping[str, Any] = field(compare=False)  # nested: what decided the weights
    eval_settings: Mapping[str, Any] = field(compare=False)
    answers: pd.DataFrame = field(compare=False, repr=False)  # of qlora_repro.store.load
    dirty: bool = False  # the code of its training or evaluation had uncommitted changes
    note: str | None = None  # what must be said of the weights
    trainable: int | None = None  # parameters; None: nothing trained
    model_bits: float = 0.0  # of the whole model

    def setting(self, path: str) -> Any:
        """Return a setting by its dotted path; None where it is not set.

        >>> run = EvaluatedRun(run_id="", digest="", folder="", settings={"lora": {"r": 4}},
        ...                    eval_settings={}, answers=pd.DataFrame())
        >>> run.setting("lora.r"), run.setting("lora.alpha.x")
        (4, None)
        """
        value: Any = self.settings
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.setting("model.name"))

    @property
    def is_tuned(self) -> bool:
        """Whether anything trained."""
        return "train" in self.settings

    @cached_property
    def scores_by_metric(self) -> dict[tuple[str, str], pd.Series]:
        """(task, metric) -> scores indexed by document; an answer without a score is NaN."""
        if self.answers.empty:
            return {}
        answers = index_by_document(self.answers).groupby(["task", "name"])
        return {
            (str(task), str(metric)): rows["value"].astype(np.float64)
            for (task, metric), rows in answers
        }

    def scores(self, task: str, metric: str) -> pd.Series:
        """Return a metric by question; of a text, its mean by window of tokens.

        Of a group of tasks, as MMLU's subjects, questions weigh so that each task weighs the same:
        their mean is the mean over tasks.

        Returns:
            Scores indexed by document, NaN where an answer has none; empty where nothing was asked.
        """
        if (task, metric) in self.scores_by_metric:
            return self.scores_by_metric[task, metric]
        tasks = {
            name: scores
            for (name, other), scores in self.scores_by_metric.items()
            if other == metric and name.startswith(f"{task}_")
        }
        if not tasks:
            return pd.Series(dtype=np.float64)
        total = sum(map(len, tasks.values()))
        weighted = {k: scores * total / (len(tasks) * len(scores)) for k, scores in tasks.items()}
        documents = [f"{name}/{document}" for name, s in weighted.items() for document in s.index]
        values = np.concatenate([scores.to_numpy() for scores in weighted.values()])
        return pd.Series(values, index=documents, dtype=np.float64)


def index_by_document(answers: pd.DataFrame) -> pd.DataFrame:
    """Return answers in order, indexed by document; one that occurs more than once is numbered."""
    ordered = answers.sort_values("doc_id", kind="stable")
    number = ordered.groupby(["task", "name", "doc_hash"]).cumcount().astype("str")
    return ordered.set_axis(pd.Index(ordered["doc_hash"] + "/" + number))


def load_evaluated_runs(results: Path) -> list[EvaluatedRun]:
    """Load every evaluation of runs that has answers, but those of random weights.

    Args:
        results: A results folder, or packed evidence.

    Raises:
        StoreError: There is no such folder, or one of its files is corrupt.
    """
    answers = load_answers(results)
    if answers.empty:
        load_runs(results)  # which tells an empty folder from a corrupt one
        return []
    evaluations = {
        (str(run_id), str(digest)): rows
        for (run_id, digest), rows in answers.groupby(["run_id", "digest"])
    }
    settings, origins = load_settings(results), load_origins(results)
    evaluated = []
    for run in load_runs(results).to_dict("records"):
        if run["settings"]["model"].get("source") == "random":
            continue
        model = run["settings"]["model"] | {"name": run["model"]}
        for key in sorted(key for key in evaluations if key[0] == run["run_id"]):
            evaluated.append(
                EvaluatedRun(
                    run_id=run["run_id"],
                    digest=key[1],
                    folder=run["folder"],
                    settings=run["settings"] | {"model": model},
                    eval_settings=settings.get(key, {}).get("eval", {}),
                    answers=evaluations[key],
                    dirty=bool(origins.get(key, {}).get("dirty")),
                    note=run["manifest"]["model"].get("note"),
                    trainable=(run["manifest"].get("trainable") or {}).get("total"),
                    model_bits=run["model_bits"],
                )
            )
    return evaluated


def add_run_facts(records: pd.DataFrame, results: Path) -> pd.DataFrame:
    """Return records beside what their runs are: model, note, dtype, dq, data, commit, dirty, ...

    Where both have a column, as where a 16-bit run measured data types, it is the record's.

    Args:
        records: What a function of qlora_repro.store.load returned for these results.
        results: A results folder, or packed evidence.
    """
    runs = load_runs(results)
    if records.empty or runs.empty:
        return pd.DataFrame()
    facts = runs.set_index("run_id")
    facts = facts[[str(n) for n in facts if n not in records and "." not in str(n)]]
    joined = records.join(facts, on="run_id", how="inner")
    return joined.sort_values(["folder", "digest"], kind="stable", ignore_index=True)


def list_run_notes(records: pd.DataFrame) -> list[str]:
    """Return what must be said of the runs of records with facts: models' notes, dirty code."""
    if records.empty:
        return []
    notes = records[records["note"].notna()].drop_duplicates(["model", "note"])
    dirty = records.loc[records["dirty"].astype(bool), "folder"].unique()
    return [
        *(f"{model}: {note}" for model, note in zip(notes["model"], notes["note"], strict=True)),
        *(f"{folder}: the code had uncommitted changes" for folder in dirty),
    ]


def group_records(
    records: pd.DataFrame, keys: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Yield (key, records) of those that agree in the keys, in the order met."""
    if not records.empty:
        yield from ((tuple(key), part) for key, part in records.groupby(list(keys), sort=False))


def weighted_mean(records: pd.DataFrame, column: str, *, weights: str) -> float:
    """Return the mean of a column, a record weighing as much as it is of; NaN where one is."""
    return float(np.average(records[column].astype(float), weights=records[weights]))


def list_folders(records: pd.DataFrame) -> tuple[str, ...]:
    """Return the folders of the runs that records with facts came from."""
    return () if records.empty else tuple(sorted(set(records["folder"])))


def group_runs(
    runs: Iterable[EvaluatedRun], key: Callable[[EvaluatedRun], Any]
) -> list[list[EvaluatedRun]]:
    """Return the runs that are equal in their key and were evaluated in the same way."""
    groups: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps([key(run), run.eval_settings], sort_keys=True), []).append(run)
    return list(groups.values())


def runs_by_seed(runs: Sequence[EvaluatedRun]) -> RunsBySeed:
    """Return runs by seed, of the settings that ran with the most seeds.

    Settings are never chosen by their scores. Empty where two have equally many: which is meant
    is then for the user to say, by leaving one out of the folder.
    """
    groups = group_runs(runs, lambda run: {**run.settings, "seed": None})
    groups.sort(key=len, reverse=True)
    if not groups or (len(groups) > 1 and len(groups[0]) == len(groups[1])):
        return {}
    return {int(run.setting("seed")): run for run in groups[0]}


def score_matrices(groups: Sequence[RunsBySeed], task: str, metric: str) -> list[Array]:
    """Return the scores of each group, (S, Q), on the seeds and questions that all groups have.

    The list is empty where they have none in common.
    """
    seeds = sorted(set.intersection(*(set(group) for group in groups))) if groups else []
    columns = [group[seed].scores(task, metric) for group in groups for seed in seeds]
    if not columns:
        return []
    common = pd.concat(columns, axis=1, join="inner").dropna()
    if common.empty:
        return []
    return list(common.to_numpy(np.float64).T.reshape(len(groups), len(seeds), -1))


def shared_training_settings(run: EvaluatedRun) -> dict[str, Any]:
    """Return what methods must share of their training: all but what is tuned for each."""
    section = run.setting("train") or {}
    return {name: value for name, value in section.items() if name not in TUNED_PER_METHOD}
