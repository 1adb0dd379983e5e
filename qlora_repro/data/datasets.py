"""The examples of a dataset, whatever kind it is; which are held out, and which get wrong answers.

Start here: `load_examples`. Which function loads a kind of dataset is in `config.registry`.
"""

import hashlib
import json
from collections import defaultdict
from dataclasses import replace
from random import Random

from qlora_repro.config.messages import format_value
from qlora_repro.config.registry import DATA_LOADERS, DATASETS, DataKind, import_function
from qlora_repro.config.schema import DataConfig
from qlora_repro.data.procedural import ProceduralQuestion, Split, draw_questions
from qlora_repro.data.rows import sample_rows
from qlora_repro.data.templates import get_template, render_prompt, render_target
from qlora_repro.errors import DataError
from qlora_repro.records import Example


def load_examples(cfg: DataConfig, *, split: str | None = None) -> list[Example]:
    """Return the examples that a data section asks for, in the dataset's own order.

    Args:
        cfg: At most `cfg.rows` examples are drawn by `cfg.seed`, without replacement.
        split: Instead of `cfg.split`.

    Returns:
        Examples of which no target is empty.

    Raises:
        DataError: For data that cannot be used as asked.
        ConfigError: For an unknown template.
    """
    get_template(cfg.template)  # refused before anything is downloaded
    kind, split = cfg.resolved_kind, split or cfg.split
    assert kind is not None, "the configuration was not checked"
    _check_selection(cfg, kind)
    rows: list[Example] = import_function(DATA_LOADERS[kind])(cfg, split)
    if not rows:
        raise DataError(f"data={cfg.name} has no rows in {cfg.path or cfg.name}, split {split}")
    return [rows[number] for number in sample_rows(len(rows), cfg.rows, seed=cfg.seed)]


def load_procedural_examples(cfg: DataConfig, split: str) -> list[Example]:
    """Return questions of the embedded tasks, of the side that `split` names."""
    if cfg.rows is None:
        raise DataError("data.rows is null, and data=procedural has no end; give a number")
    side: Split = "test" if split == "test" else "train"
    questions = draw_questions(cfg.tasks, cfg.rows, seed=cfg.seed, split=side)
    return [question_to_example(question, cfg.template) for question in questions]


def question_to_example(question: ProceduralQuestion, template: str) -> Example:
    """Return a question in a prompt template, its answer as the target."""
    return Example(
        source=render_prompt(template, question.question),
        target=render_target(template, question.answer),
        task=question.task,
    )


def _check_selection(cfg: DataConfig, kind: DataKind) -> None:
    """Refuse a choice of rows that the dataset cannot offer."""
    by_task = cfg.name in DATASETS and DATASETS[cfg.name].sampled_by_task
    if cfg.rows_per_task is not None and not by_task:
        raise DataError(
            f"data.rows_per_task is {cfg.rows_per_task} and data={cfg.name} is not drawn by task; "
            "use data.rows_per_task=null"
        )
    if cfg.examples and not by_task:
        raise DataError(
            f"data.examples is {cfg.examples} and data={cfg.name} shows no solved examples; use "
            "data.examples=0"
        )
    if cfg.mix is None:
        return
    needs_whole_table = kind == DataKind.HUB and cfg.name != "glue" and cfg.tasks is None
    if not needs_whole_table or cfg.rows_per_task is not None:
        raise DataError(
            f"data.mix draws from several sets at given shares, which does not go with "
            f"data={cfg.name}, data.tasks={format_value(cfg.tasks)} and "
            f"data.rows_per_task={format_value(cfg.rows_per_task)}; use data.mix=null"
        )
    if cfg.rows is None or not cfg.mix or not min(cfg.mix.values()) > 0:
        raise DataError(
            f"data.mix is {cfg.mix} and data.rows is {format_value(cfg.rows)}; a mix needs a "
            "number of rows, and of each set a share above 0"
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
    held_out = set(Random(f"{seed}/holdout").sample(range(len(rows)), holdout))
    train = [row for number, row in enumerate(rows) if number not in held_out]
    return train, [rows[number] for number in sorted(held_out)]


def hash_examples(rows: list[Example]) -> str:
    """Return the sha256 of the rows, in hexadecimal: equal digests, equal data in equal order."""
    digest = hashlib.sha256()
    for row in rows:
        line = json.dumps([row.source, row.target, row.task, *row.shorter], ensure_ascii=True)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def add_wrong_answers(rows: list[Example], *, share: float, seed: int) -> list[Example]:
    """Return the rows, this share of them with the answer of another row of the same task.

    The wrong answer differs from the row's own, and is as likely as it is frequent in the task; so
    a row alone does not show that it is wrong. A larger share keeps the wrong rows of a smaller
    one. Raises DataError when every row of a task has one and the same answer.
    """
    answers: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        answers[row.task].append(row.target)
    order = list(range(len(rows)))
    Random(f"{seed}/wrong").shuffle(order)
    noisy = list(rows)
    for number in order[: round(share * len(rows))]:
        row = rows[number]
        others = [answer for answer in answers[row.task] if answer != row.target]
        if not others:
            raise DataError(
                f"data.wrong={share:g} needs other answers to give, and every row of "
                f"{row.task or 'this data'} has the same; write data.wrong=0"
            )
        noisy[number] = replace(row, target=Random(f"{seed}/wrong/{number}").choice(others))
    return noisy
