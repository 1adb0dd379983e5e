"""The store's runs as the claims want them: what decided each, and its scores by question."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qlora_repro.records import PERPLEXITY
from qlora_repro.store.load import manifests, model_bits, settings
from qlora_repro.store.runs import read_answers

Array = NDArray[np.float64]
NOT_SETTINGS = ("lr", "optim", "schedule", "warmup_steps", "max_grad_norm", "beta2", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One evaluation of one run."""

    path: Path  # of its answers
    run_id: str
    decided: dict[str, Any] = field(compare=False)  # the settings that decided the weights
    asked: dict[str, Any] = field(compare=False)  # the eval section
    note: str | None  # what must be said of the weights
    trainable: int | None  # parameters that trained; None: untuned
    bits: float  # of the whole model

    def at(self, path: str) -> Any:
        """Return a setting by its dotted path; None where it is not set.

        >>> run = Run(path=Path("a"), run_id="", decided={"lora": {"r": 4}}, asked={}, note=None,
        ...           trainable=1, bits=1.0)
        >>> run.at("lora.r"), run.at("lora.alpha.x")
        (4, None)
        """
        value: Any = self.decided
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.at("model.name"))

    @property
    def tuned(self) -> bool:
        """Whether anything trained."""
        return "train" in self.decided

    def measured(self) -> list[tuple[str, str]]:
        """Return each (task, metric) that has answers."""
        return list(question_scores(self.path))

    def scores(self, task: str, name: str) -> pd.Series:
        """Return a metric by question; tokens of a text by window, whose values are averaged.

        Of a group of tasks, as MMLU's subjects, questions weigh so that each task weighs the same:
        their mean is the mean over tasks.
        """
        answers = question_scores(self.path)
        if (task, name) not in answers:
            return _group(
                {t: v for (t, n), v in answers.items() if n == name and t.startswith(f"{task}_")}
            )
        found = answers[task, name]
        if task != PERPLEXITY or found.empty:
            return found
        window = np.arange(len(found)) // int(self.asked["perplexity_window"])
        means = found.groupby(window).mean()
        means.index = pd.Index(found.index[:: int(self.asked["perplexity_window"])])
        return means


def load(root: Path) -> list[Run]:
    """Return every evaluation in a results folder, but those of random weights."""
    found = []
    for folder, manifest in manifests(root):
        decided = manifest["decided_by"]
        if decided["model"].get("source") == "random":
            continue
        kept = 32 if decided["dtype"]["name"] == "fp32" else 16
        for path in sorted(folder.glob("answers-*.jsonl")):
            digest = path.stem.rpartition("-")[2]
            run = Run(
                path=path,
                run_id=str(manifest.get("run_id", "")),
                decided=decided,
                asked=settings(root, folder.name, digest).get("eval", {}),
                note=manifest["model"].get("note"),
                trainable=(manifest.get("trainable") or {}).get("total"),
                bits=model_bits(manifest["base"], kept=kept),
            )
            found.append(run)
    return found


def _group(tasks: dict[str, pd.Series]) -> pd.Series:
    if not tasks:
        return pd.Series(dtype=np.float64)
    total = sum(len(values) for values in tasks.values())
    scaled = {t: values * total / (len(tasks) * len(values)) for t, values in tasks.items()}
    documents = [
        f"{task}/{document}" for task, values in scaled.items() for document in values.index
    ]
    return pd.Series(np.concatenate([*scaled.values()]), index=documents, dtype=np.float64)


@cache
def question_scores(path: Path) -> dict[tuple[str, str], pd.Series]:
    """Return values by (task, metric), indexed by document; an answer without a score is NaN."""
    frame = pd.DataFrame(read_answers(path))
    if frame.empty:
        return {}
    frame = frame.sort_values("doc_id", kind="stable")
    frame["again"] = frame.groupby(["task", "name", "doc_hash"]).cumcount()
    frame["document"] = frame["doc_hash"] + "/" + frame["again"].astype("str")
    return {
        (str(task), str(name)): part.set_index("document")["value"].astype(np.float64)
        for (task, name), part in frame.groupby(["task", "name"])
    }


def grouped(runs: Iterable[Run], same: Callable[[Run], Any]) -> list[list[Run]]:
    """Return the runs that are equal in what `same` names and were asked the same."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps([same(run), run.asked], sort_keys=True), []).append(run)
    return list(groups.values())


def most_seeds(runs: Sequence[Run]) -> dict[int, Run]:
    """Return one arm's runs by seed: those of the settings that ran with the most seeds.

    Settings are never chosen by their scores. Empty where two have equally many: which is meant
    is then for the user to say, by leaving one out of the folder.
    """
    arms = grouped(runs, lambda run: {k: v for k, v in run.decided.items() if k != "seed"})
    arms.sort(key=len, reverse=True)
    if not arms or (len(arms) > 1 and len(arms[0]) == len(arms[1])):
        return {}
    return {int(run.at("seed")): run for run in arms[0]}


def matrices(arms: Sequence[dict[int, Run]], task: str, name: str) -> list[Array]:
    """Return scores (S, Q) an arm, on the seeds and questions that all have; [] without any."""
    seeds = sorted(set.intersection(*(set(arm) for arm in arms))) if arms else []
    columns = [arm[seed].scores(task, name) for arm in arms for seed in seeds]
    if not columns:
        return []
    together = pd.concat(columns, axis=1, join="inner").dropna()
    if together.empty:
        return []
    stacked = together.to_numpy(np.float64).T.reshape(len(arms), len(seeds), -1)
    return list(stacked)


def training(run: Run) -> dict[str, Any]:
    """Return what two arms must share of their training: all but what is tuned for each."""
    section = run.at("train") or {}
    return {k: v for k, v in section.items() if k not in NOT_SETTINGS}
