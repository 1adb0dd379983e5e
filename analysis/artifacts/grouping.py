"""From a results folder to the blocks of a table: arms that differ in what it varies, and no more.

An arm is one setting with its seeds. Where several arms fall into one cell, those with the most
seeds stand there; a score never decides which.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.artifacts.spec import Artifact, Score
from analysis.findings.runs import NOT_SETTINGS, Run
from qlora_repro.store.progress import FAILED, read_note

Settings = dict[str, Any]  # by dotted path
SLUG = re.compile(
    r"(?P<model>[^-]+)-(?P<dtype>[^-]+)(?P<dq>-dq)?-(?:(?P<full>full)|(?P<target>[^-]+)-r(?P<r>\d+))"
    r"-(?P<data>[^-]+)-s(?P<seed>\d+)-[0-9a-f]{12}"
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One setting of one cell: its runs by seed; one that is not tuned has one, of no seed."""

    row: str
    column: str
    score: Score
    settings: Settings  # all that decided it, but the seed
    runs: Mapping[int, Run]

    @property
    def tuned(self) -> bool:
        """Whether anything trained."""
        return next(iter(self.runs.values())).tuned

    @property
    def model(self) -> str:
        """The model's name."""
        return next(iter(self.runs.values())).model


@dataclass(kw_only=True)
class Block:
    """Arms of one column that may be compared."""

    column: str
    score: Score
    shared: Settings  # what they agree in
    arms: list[Arm] = field(default_factory=list)

    @property
    def rows(self) -> list[str]:
        """The rows, in the order met."""
        return list(dict.fromkeys(arm.row for arm in self.arms))


def flat(section: Mapping[str, Any], above: str = "") -> Settings:
    """Return nested settings by dotted path.

    >>> flat({"dq": True, "lora": {"r": 4}})
    {'dq': True, 'lora.r': 4}
    """
    found: Settings = {}
    for name, value in section.items():
        inner = isinstance(value, dict) and value
        found |= flat(value, f"{above}{name}.") if inner else {f"{above}{name}": value}
    return found


def arms(artifact: Artifact, runs: Iterable[Run]) -> list[Arm]:
    """Return every arm that has a place and the score of it; run twice, the later counts."""
    found: dict[str, Arm] = {}
    for run in runs:
        settings = flat(run.decided) | flat({"eval": run.asked})
        seed = int(settings.pop("seed", 0) or 0)
        for place in artifact.places(run):
            if run.scores(place.score.task, place.score.name).empty:
                continue
            key = json.dumps([place.row, place.column, place.score.task, settings], sort_keys=True)
            before = found[key].runs if key in found else {}
            found[key] = Arm(
                row=place.row,
                column=place.column,
                score=place.score,
                settings=settings,
                runs={**before, seed: run},
            )
    return list(found.values())


def shared(artifact: Artifact, arm: Arm) -> Settings:
    """Return the settings in which an arm must agree with those that it is compared with."""
    tuned_for_each = tuple(f"train.{name}" for name in NOT_SETTINGS)
    aside = (*artifact.varies, *tuned_for_each, "train.micro_batch_size")
    return {
        path: value
        for path, value in arm.settings.items()
        if not any(path == one or path.startswith(f"{one}.") for one in aside)
    }


def blocks(artifact: Artifact, found: Sequence[Arm]) -> list[Block]:
    """Sort arms into blocks; one that has fewer settings, as an untuned model, is in several."""
    made: list[Block] = []
    for arm in sorted(found, key=lambda arm: -len(shared(artifact, arm))):
        own = shared(artifact, arm)
        fitting = [
            block
            for block in made
            if (block.column, block.score) == (arm.column, arm.score)
            and own.items() <= block.shared.items()
        ]
        if not fitting:
            fitting = [Block(column=arm.column, score=arm.score, shared=own)]
            made += fitting
        for block in fitting:
            block.arms.append(arm)
    for block in made:
        block.arms = [arm for row in block.rows for arm in _most_seeds(block.arms, row)]
    return made


def _most_seeds(found: Sequence[Arm], row: str) -> list[Arm]:
    of = [arm for arm in found if arm.row == row]
    most = max(len(arm.runs) for arm in of)
    return [arm for arm in of if len(arm.runs) == most]


def differing(some: Sequence[Settings]) -> list[str]:
    """Return the settings in which not all agree.

    >>> differing([{"a": 1, "b": 2}, {"a": 1, "b": 3}])
    ['b']
    """
    paths = dict.fromkeys(path for one in some for path in one)
    return [path for path in paths if len({json.dumps(one.get(path)) for one in some}) > 1]


def worded(settings: Settings, paths: Iterable[str]) -> str:
    """Return settings as a label has them.

    >>> worded({"data.tasks": ["a", "b", "c"], "lora.r": 4}, ["lora.r", "data.tasks"])
    'r=4, tasks=a+2'
    """
    said = []
    for path in paths:
        value = settings.get(path)
        if isinstance(value, list) and value:
            value = f"{value[0]}+{len(value) - 1}" if len(value) > 1 else value[0]
        said.append(f"{path.rpartition('.')[2]}={'-' if value is None else value}")
    return ", ".join(said)


def failures(root: Path) -> Iterator[tuple[Run, str]]:
    """Yield each run that failed, as far as its folder's name tells its settings, and its state."""
    for note in sorted(root.glob(f"*/{FAILED}")):
        told, named = read_note(note), SLUG.fullmatch(note.parent.name)
        if told is None or named is None:
            continue
        lora = {"target": "none"} if named["full"] else {"target": named["target"]}
        decided = {
            "model": {"name": named["model"]},
            "dtype": {"name": named["dtype"]},
            "dq": bool(named["dq"]),
            "lora": lora if named["full"] else lora | {"r": int(named["r"])},
            "data": {"name": named["data"]},
            "train": {},
            "seed": int(named["seed"]),
        }
        run = Run(
            path=note.parent / "answers",
            run_id=note.parent.name,
            decided=decided,
            asked={},
            note=None,
            trainable=None,
            bits=0.0,
        )
        yield run, "OOM" if told["state"] == "out of memory" else str(told["state"])
