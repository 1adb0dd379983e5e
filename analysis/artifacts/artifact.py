"""A table or figure of the paper as data, and the groups of runs that belong in its cells.

A sample group is one setting with its seeds. Where several of them belong in one cell, those with
the most seeds stand there; a score never decides which.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.artifacts.runs import TUNED_PER_METHOD, EvaluatedRun
from analysis.paper_tables import CellKey, load_cells
from qlora_repro.records import LOSS, PERPLEXITY
from qlora_repro.store.run_id import flatten_settings
from qlora_repro.store.runs import FAILURE, read_failure

Settings = dict[str, Any]  # by dotted path
MARGINS = ("mean", "average")
FOLDER_NAME = re.compile(
    r"(?P<model>[^-]+)-(?P<dtype>[^-]+)(?P<dq>-dq)?-(?:(?P<full>full)|(?P<target>[^-]+)-r(?P<r>\d+))"
    r"-(?P<data>[^-]+)-s(?P<seed>\d+)-[0-9a-f]{12}"
)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric by question, and what brings its mean to the unit of a table."""

    task: str
    name: str
    unit: str
    scale: float
    digits: int


MMLU = Score(task="mmlu", name="acc", unit="% MMLU", scale=100, digits=1)
ROUGE = Score(task="rouge", name="rougeL", unit="RougeL", scale=100, digits=1)
HELD_OUT = Score(task="held_out", name="acc", unit="% accuracy", scale=100, digits=1)
STAND_INS = (  # what is asked where the paper's benchmark is not at hand
    Score(task="procedural_exact", name="exact_match", unit="% exact", scale=100, digits=1),
    Score(task="procedural_mc", name="acc", unit="% choice", scale=100, digits=1),
    ROUGE,
    Score(task=PERPLEXITY, name=LOSS, unit="nats a token", scale=1, digits=3),
)
MMLU_FIRST = (MMLU, *STAND_INS)
ROUGE_FIRST = (ROUGE, *(score for score in STAND_INS if score != ROUGE))


@dataclass(frozen=True, kw_only=True)
class CellScore:
    """A cell, and the score that stands in it."""

    row: str
    column: str
    score: Score


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What one table needs beside the engine.

    Runs are compared with each other where they agree in every setting that is not in `varies`.
    """

    stem: str  # of its csv and its preset
    title: str
    heads: CellKey  # what rows and columns are
    locate_run: Callable[[EvaluatedRun], Sequence[CellScore]]
    varies: tuple[str, ...]  # dotted settings that rows differ in
    models: tuple[str, ...]  # the paper's; every other stands in
    scores: tuple[str, ...]  # tasks that the paper's cells are of
    base_rows: tuple[str, ...]  # the first that is there is the base; none: the smallest number
    digits: int
    notes: tuple[str, ...]
    load_printed: Callable[[], Mapping[CellKey, float]] | None = None  # None: the csv's cells
    presets: tuple[str, ...] = ()  # where it is not one of its name
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)  # column -> what it averages

    def printed_cells(self) -> Mapping[CellKey, float]:
        """Return the printed cells, in the table's order."""
        return self.load_printed() if self.load_printed else load_cells(self.stem)

    def base_row(self, rows: Sequence[str]) -> str | None:
        """Return which of the rows the others are set against; None where it is not there."""
        if self.base_rows:
            return next((row for row in self.base_rows if row in rows), None)
        return min((row for row in rows if row.isdigit()), key=int, default=None)


def cell_scores(row: str, column: str, scores: Sequence[Score]) -> list[CellScore]:
    """Return one cell with each of the scores that may stand in it."""
    return [CellScore(row=row, column=column, score=score) for score in scores]


@dataclass(frozen=True, kw_only=True)
class SampleGroup:
    """One setting in one cell: its runs by seed; an untuned model has one, of no seed."""

    row: str
    column: str
    score: Score
    settings: Settings  # all that decided it, but the seed
    runs: Mapping[int, EvaluatedRun]

    @property
    def is_tuned(self) -> bool:
        """Whether anything trained."""
        return next(iter(self.runs.values())).is_tuned

    @property
    def model(self) -> str:
        """The model's name."""
        return next(iter(self.runs.values())).model


@dataclass(kw_only=True)
class ComparableGroups:
    """Sample groups of one column and score that differ in what the artifact varies, no more."""

    column: str
    score: Score
    shared: Settings  # what they agree in
    groups: list[SampleGroup] = field(default_factory=list)

    @property
    def rows(self) -> list[str]:
        """The rows, in the order met."""
        return list(dict.fromkeys(group.row for group in self.groups))


def group_samples(artifact: Artifact, runs: Iterable[EvaluatedRun]) -> list[SampleGroup]:
    """Return the groups of runs that have a cell and its score; of two equal runs the later."""
    groups: dict[str, SampleGroup] = {}
    for run in runs:
        settings = flatten_settings(run.settings) | flatten_settings({"eval": run.eval_settings})
        seed = int(settings.pop("seed", 0) or 0)
        for cell in artifact.locate_run(run):
            if run.scores(cell.score.task, cell.score.name).empty:
                continue
            key = json.dumps([cell.row, cell.column, cell.score.task, settings], sort_keys=True)
            earlier = groups[key].runs if key in groups else {}
            groups[key] = SampleGroup(
                row=cell.row,
                column=cell.column,
                score=cell.score,
                settings=settings,
                runs={**earlier, seed: run},
            )
    return list(groups.values())


def group_comparable(artifact: Artifact, groups: Sequence[SampleGroup]) -> list[ComparableGroups]:
    """Sort groups by what they may be compared with.

    One that has fewer settings, as an untuned model, is compared with several. Of the groups of one
    row those with the most seeds are kept.
    """
    comparables: list[ComparableGroups] = []
    for group in sorted(groups, key=lambda group: -len(_shared_settings(artifact, group))):
        shared = _shared_settings(artifact, group)
        fitting = [
            other
            for other in comparables
            if (other.column, other.score) == (group.column, group.score)
            and shared.items() <= other.shared.items()
        ]
        if not fitting:
            fitting = [ComparableGroups(column=group.column, score=group.score, shared=shared)]
            comparables += fitting
        for other in fitting:
            other.groups.append(group)
    for other in comparables:
        other.groups = [group for row in other.rows for group in _with_most_seeds(other, row)]
    return comparables


def _shared_settings(artifact: Artifact, group: SampleGroup) -> Settings:
    """Return the settings in which a group must agree with those that it is compared with."""
    tuned = tuple(f"train.{name}" for name in TUNED_PER_METHOD)
    free = (*artifact.varies, *tuned, "train.micro_batch_size")
    return {
        path: value
        for path, value in group.settings.items()
        if not any(path == one or path.startswith(f"{one}.") for one in free)
    }


def _with_most_seeds(comparable: ComparableGroups, row: str) -> list[SampleGroup]:
    groups = [group for group in comparable.groups if group.row == row]
    most = max(len(group.runs) for group in groups)
    return [group for group in groups if len(group.runs) == most]


def differing_settings(settings: Sequence[Settings]) -> list[str]:
    """Return the paths in which not all agree.

    >>> differing_settings([{"a": 1, "b": 2}, {"a": 1, "b": 3}])
    ['b']
    """
    paths = dict.fromkeys(path for one in settings for path in one)
    return [path for path in paths if len({json.dumps(one.get(path)) for one in settings}) > 1]


def describe_settings(settings: Settings, paths: Iterable[str]) -> str:
    """Return settings as a label has them.

    >>> describe_settings({"data.tasks": ["a", "b", "c"], "lora.r": 4}, ["lora.r", "data.tasks"])
    'r=4, tasks=a+2'
    """
    labels = []
    for path in paths:
        value = settings.get(path)
        if isinstance(value, list) and value:
            value = f"{value[0]}+{len(value) - 1}" if len(value) > 1 else value[0]
        labels.append(f"{path.rpartition('.')[2]}={'-' if value is None else value}")
    return ", ".join(labels)


def load_failures(results: Path) -> Iterator[tuple[EvaluatedRun, str]]:
    """Yield each run that failed, as far as its folder's name tells its settings, and its state."""
    for path in sorted(results.glob(f"*/{FAILURE}")):
        failure, name = read_failure(path.parent), FOLDER_NAME.fullmatch(path.parent.name)
        if failure is None or name is None:
            continue
        adapters = {"target": name["target"], "r": int(name["r"] or 0)}
        settings = {
            "model": {"name": name["model"]},
            "dtype": {"name": name["dtype"]},
            "dq": bool(name["dq"]),
            "lora": {"target": "none"} if name["full"] else adapters,
            "data": {"name": name["data"]},
            "train": {},
            "seed": int(name["seed"]),
        }
        run = EvaluatedRun(
            run_id=path.parent.name,
            digest="",
            folder=path.parent.name,
            settings=settings,
            eval_settings={},
            answers=pd.DataFrame(),
        )
        yield run, "OOM" if failure["state"] == "out of memory" else str(failure["state"])
