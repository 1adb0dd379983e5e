"""Rows with wrong answers: what training data of lower quality does (finding 4).

Training and test examples of every dataset, by the name that conf/data/ gives it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from random import Random

from qlora_repro.config.schema import DataConfig
from qlora_repro.data.hub_datasets import SOURCES, check_choice, from_hub, subsample
from qlora_repro.data.local_files import from_file
from qlora_repro.data.procedural import Question, Side, draw
from qlora_repro.data.templates import find, render, target
from qlora_repro.errors import DataError
from qlora_repro.records import Example


def misanswered(rows: list[Example], *, share: float, seed: int) -> list[Example]:
    """Return the rows, this share of them with the answer of another row of the same task.

    The wrong answer differs from the row's own, and is as likely as it is frequent in the task; so
    a row alone does not show that it is wrong. A larger share keeps the wrong rows of a smaller
    one. Raises DataError when every row of a task has one and the same answer.
    """
    answers: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        answers[row.task].append(row.target)
    places = list(range(len(rows)))
    Random(f"{seed}/wrong").shuffle(places)
    made = list(rows)
    for place in places[: round(share * len(rows))]:
        row = rows[place]
        others = [answer for answer in answers[row.task] if answer != row.target]
        if not others:
            raise DataError(
                f"data.wrong={share:g} needs other answers to give, and every row of "
                f"{row.task or 'this data'} has the same; write data.wrong=0"
            )
        made[place] = replace(row, target=Random(f"{seed}/wrong/{place}").choice(others))
    return made


__all__ = ["LOADERS", "SOURCES", "as_example", "examples", "fingerprint", "split_holdout"]

Texts = frozenset[str]


def procedural(cfg: DataConfig, split: str, avoid: Texts) -> list[Example]:
    """Questions of the embedded tasks, of the side that `split` names."""
    if cfg.rows is None:
        raise DataError("data.rows is null, and data=procedural has no end; give a number")
    only: Side = "test" if split == "test" else "train"
    drawn = draw(cfg.tasks, cfg.rows, seed=cfg.seed, avoid=avoid, only=only)
    return [as_example(question, cfg.template) for question in drawn]


def local(cfg: DataConfig, split: str, avoid: Texts) -> list[Example]:
    """A file of the user's own; it has no splits."""
    rows = from_file(cfg)
    if cfg.tasks is None:
        return rows
    there = {row.task for row in rows}
    for name in cfg.tasks:
        if name not in there:
            raise DataError(f"data.tasks has {name!r}, and {cfg.path} has no row of that task")
    return [row for row in rows if row.task in cfg.tasks]


def hub(cfg: DataConfig, split: str, avoid: Texts) -> list[Example]:
    """A dataset of the hub."""
    return from_hub(cfg, split=split)


LOADERS: dict[str, Callable[[DataConfig, str, Texts], list[Example]]] = {
    "procedural": procedural,
    "local": local,
    **dict.fromkeys(SOURCES, hub),
}


def examples(
    cfg: DataConfig, *, split: str | None = None, avoid: Texts = frozenset()
) -> list[Example]:
    """Return the examples that a data section asks for, in the dataset's own order.

    split: instead of `cfg.split`. avoid: question texts that procedural data must not draw.
    At most `cfg.rows` of them, drawn by `cfg.seed` without replacement. No target is empty.
    Raises DataError for data that cannot be used as asked, ConfigError for an unknown template.
    """
    find(cfg.template)  # refused before anything is downloaded
    if cfg.name not in LOADERS:
        near = get_close_matches(cfg.name, LOADERS, n=1, cutoff=0.0)[0]
        raise DataError(
            f"there is no dataset {cfg.name!r}; the nearest is {near!r}, and any file goes through "
            "data=local"
        )
    if cfg.rows is not None and cfg.rows < 1:
        raise DataError(f"data.rows is {cfg.rows}, and must be at least 1, or null for all rows")
    check_choice(cfg)
    rows = LOADERS[cfg.name](cfg, split or cfg.split, avoid)
    if not rows:
        raise DataError(
            f"data={cfg.name} has no rows in {cfg.path or cfg.name}, split {split or cfg.split}"
        )
    return [rows[i] for i in subsample(len(rows), cfg.rows, seed=cfg.seed)]


def as_example(question: Question, template: str) -> Example:
    """Return a question in a prompt template, its answer as the target."""
    return Example(
        source=render(template, question.question),
        target=target(template, question.answer),
        task=question.task,
    )


def split_holdout(
    rows: list[Example], *, holdout: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """Return (training rows, held-out rows), both in order; `holdout` rows are drawn by the seed.

    Raises DataError when that leaves nothing to train on.
    """
    if not 0 <= holdout < len(rows):
        raise DataError(
            f"data.holdout is {holdout} and there are {len(rows)} rows; it must be at least 0 and "
            "leave one row to train on"
        )
    kept = set(Random(f"{seed}/holdout").sample(range(len(rows)), holdout))
    train = [row for number, row in enumerate(rows) if number not in kept]
    return train, [row for number, row in enumerate(rows) if number in kept]


def fingerprint(rows: list[Example]) -> str:
    """Return the sha256 of the rows, in hexadecimal: equal digests, equal data in equal order."""
    digest = hashlib.sha256()
    for row in rows:
        line = json.dumps([row.source, row.target, row.task, *row.shorter], ensure_ascii=True)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
