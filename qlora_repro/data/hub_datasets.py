"""Datasets of the hub: load a table, choose its rows, turn each row into examples.

The functions that turn a row into examples, one a dataset, are at the end. Each takes the row, the
prompt template and the name of the subset. Where the hub's text already holds the whole prompt, as
in the original training code, conf/ sets the template to `none`.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from datasets import Dataset as Table
from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the hub's own client

from qlora_repro.config.messages import nearest_names
from qlora_repro.config.registry import DATASETS, DataKind, Dataset, import_function
from qlora_repro.config.schema import DataConfig
from qlora_repro.data.rows import (
    Row,
    build_example,
    convert_by_columns,
    get_text,
    get_value,
    sample_rows,
)
from qlora_repro.data.templates import render_prompt
from qlora_repro.errors import DataError
from qlora_repro.records import Example

log = logging.getLogger(__name__)

SOLVED_EXAMPLES = "solved"  # the column that a row of Super-NaturalInstructions gets for them
# GLUE's subset -> the columns that hold its sentences. The diagnostic set `ax` has no labels.
GLUE_COLUMNS = {
    "cola": ("sentence",),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence",),
    "stsb": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
MAX_EMPTY_SHARE = 0.01  # of the rows of a published set may have no answer; they are left out
Converter = Callable[[Row, str, str], Iterable[Example]]
NETWORK_ERRORS = (
    ConnectionError,
    FileNotFoundError,
    TimeoutError,
    HfHubHTTPError,
    httpx.TransportError,
)


@dataclass(frozen=True, kw_only=True)
class TableSelection:
    """One table of a dataset, and how many of its rows are wanted."""

    path: str
    subset: str | None
    rows: int | None  # drawn before conversion, as a table may hold millions; None: all


def load_hub_examples(cfg: DataConfig, split: str) -> list[Example]:
    """Return the examples of a dataset of the hub, at most about `cfg.rows` of them.

    Rows without an answer are left out, with a line in the log, as long as they are few.

    Raises:
        DataError: When the hub cannot be reached, for an unknown subset, split, task or column, and
            when more than one row in a hundred has no answer.
    """
    return [
        example
        for selection in _select_tables(cfg)
        for example in _convert_rows(cfg, selection, _load_table(cfg, selection, split=split))
    ]


def _registered(cfg: DataConfig) -> Dataset:
    """Return what is registered under the set's name; nothing is, of a user's own."""
    return DATASETS.get(cfg.name, Dataset(kind=DataKind.HUB))


def _get_converter(cfg: DataConfig) -> Converter:
    if name := _registered(cfg).convert:
        return import_function(name)
    if cfg.columns is None:
        raise DataError(
            f"data.columns is null, and data={cfg.name} needs to know its columns; give "
            "data.columns.source and data.columns.target"
        )
    columns = cfg.columns
    return lambda row, template, subset: [convert_by_columns(row, template, columns)]


def split_rows_by_share(mix: dict[str, float], rows: int) -> dict[str, int]:
    """Return how many of `rows` each part of a mix gives; what rounding leaves goes to the first.

    >>> split_rows_by_share({"a": 0.5, "b": 0.25, "c": 0.25}, 10)
    {'a': 6, 'b': 2, 'c': 2}
    """
    total = sum(mix.values())
    counts = {name: int(rows * share / total) for name, share in mix.items()}
    counts[next(iter(mix))] += rows - sum(counts.values())
    return counts


def _select_tables(cfg: DataConfig) -> list[TableSelection]:
    if not cfg.path:
        raise DataError(f"data.path is empty, and data={cfg.name} needs the id of a hub dataset")
    if cfg.mix is not None and cfg.rows is not None:
        return [
            TableSelection(path=f"{cfg.path}/{name}", subset=cfg.config_name, rows=count)
            for name, count in split_rows_by_share(cfg.mix, cfg.rows).items()
        ]
    subsets = _subsets(cfg)
    early = len(subsets) == 1 and not _registered(cfg).many_per_row
    rows = cfg.rows if early else None
    return [TableSelection(path=cfg.path, subset=subset, rows=rows) for subset in subsets]


def _subsets(cfg: DataConfig) -> list[str | None]:
    if cfg.name != "glue":
        if cfg.tasks is not None and not _registered(cfg).task_columns:
            raise DataError(
                f"data.tasks is {cfg.tasks} and data={cfg.name} has no tasks to choose from; use "
                "data.tasks=null"
            )
        return [cfg.config_name]
    names = cfg.tasks or ([cfg.config_name] if cfg.config_name else list(GLUE_COLUMNS))
    if cfg.config_name not in (None, *names):
        raise DataError(
            f"data.tasks={cfg.tasks} and data.config_name={cfg.config_name!r} contradict each "
            "other; set data.config_name=null"
        )
    return [_check_name(name, list(GLUE_COLUMNS), kind="GLUE task") for name in names]


def _load_table(cfg: DataConfig, selection: TableSelection, *, split: str) -> Table:
    path, subset = selection.path, selection.subset
    if (cfg.name, subset, split) == ("glue", "mnli", "validation"):
        split = "validation_matched"  # MNLI alone has two validation splits
    files = _registered(cfg).files
    try:
        return load_dataset(path, subset, data_files=files, revision=cfg.revision, split=split)
    except NETWORK_ERRORS as error:
        only = f"--include '{files}' " if files else ""
        folder = "DIR" if cfg.mix is None else f"DIR/{Path(path).name}"
        raise DataError(
            f"the dataset {path} (revision {cfg.revision or 'main'}) could not be reached "
            f"({_first_line(error)}); where there is a network, run `hf download {path} "
            f"--repo-type dataset --revision {cfg.revision or 'main'} {only}--local-dir {folder}`, "
            "then set data.path=DIR here"
        ) from error
    except (ValueError, RuntimeError, DatasetGenerationError) as error:
        raise DataError(
            f"the dataset {path} cannot be read with data.config_name={subset or 'null'} and "
            f"data.split={split}: {_first_line(error)}"
        ) from error


def _convert_rows(cfg: DataConfig, selection: TableSelection, table: Table) -> list[Example]:
    numbers = _filter_by_task(cfg, selection, table)
    solved: dict[str, list[Row]] = {}
    if cfg.rows_per_task is not None or cfg.examples:
        _task_column(cfg, selection, table)
        numbers, solved = _sample_by_task(cfg, table, numbers)
    if selection.rows is not None:
        numbers = [numbers[i] for i in sample_rows(len(numbers), selection.rows, seed=cfg.seed)]
    convert = _get_converter(cfg)
    examples: list[Example] = []
    empty: list[int] = []
    for number, row in zip(numbers, table.select(numbers), strict=True):
        shown = {SOLVED_EXAMPLES: solved[row["task_name"]]} if solved else {}
        try:
            of_row = list(convert({**row, **shown}, cfg.template, selection.subset or ""))
        except DataError as error:
            raise DataError(f"{selection.path}, row {number + 1}: {error}") from error
        examples += [example for example in of_row if example.target]
        if any(not example.target for example in of_row):
            empty.append(number + 1)
    if len(empty) > MAX_EMPTY_SHARE * len(numbers):
        raise DataError(
            f"{len(empty)} of {len(numbers)} rows of {selection.path} have an empty target, the "
            f"first in row {empty[0]}; a target must have text"
        )
    if empty:
        log.warning("%s: left out %d rows with an empty target", selection.path, len(empty))
    return examples


def _sample_by_task(
    cfg: DataConfig, table: Table, numbers: list[int]
) -> tuple[list[int], dict[str, list[Row]]]:
    """Return which rows to learn, in order, and of each task the rows to show as solved examples.

    An instance with several right answers has a row for each, of which the first counts. What is
    shown is never learned; a task of few instances shows fewer, so that one is left to learn.
    """
    instances: dict[str, dict[str, int]] = defaultdict(dict)
    chosen = table.select(numbers)
    ids = chosen["id"] if "id" in table.column_names else chosen["inputs"]
    for number, task, name in zip(numbers, chosen["task_name"], ids, strict=True):
        instances[task].setdefault(name, number)
    learned: list[int] = []
    solved: dict[str, list[Row]] = {}
    for task, of_task in instances.items():
        drawn = Random(f"{cfg.seed}/{task}").sample(list(of_task.values()), len(of_task))
        shows = min(cfg.examples, len(drawn) - 1)
        solved[task] = [table[number] for number in drawn[:shows]]
        rest = drawn[shows:]
        learned += rest if cfg.rows_per_task is None else rest[: cfg.rows_per_task]
    return sorted(learned), solved


def _filter_by_task(cfg: DataConfig, selection: TableSelection, table: Table) -> list[int]:
    """Return the numbers of the rows whose task is asked for; all of them when none is named."""
    if cfg.tasks is None or not _registered(cfg).task_columns:
        return list(range(len(table)))
    tasks = list(table[_task_column(cfg, selection, table)])
    known = sorted(set(tasks))
    wanted = {_check_name(name, known, kind=f"{cfg.name} task") for name in cfg.tasks}
    return [number for number, task in enumerate(tasks) if task in wanted]


def _task_column(cfg: DataConfig, selection: TableSelection, table: Table) -> str:
    columns = _registered(cfg).task_columns
    named = [column for column in columns if column in table.column_names]
    if not named:
        raise DataError(
            f"{selection.path} has no column {columns[0]!r} among "
            f"{', '.join(table.column_names)}; use data.tasks=null, data.rows_per_task=null and "
            "data.examples=0"
        )
    return named[0]


def _check_name(name: str, names: list[str], *, kind: str) -> str:
    if name not in names:
        near = nearest_names(name, names, cutoff=0)
        hint = f"; the nearest of {len(names)} is {near[0]!r}" if near else ""
        raise DataError(f"there is no {kind} {name!r}{hint}")
    return name


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def build_conversation_example(conversation: str) -> Iterator[Example]:
    """Yield a conversation that is trained on from its first word: nothing but target."""
    yield Example(source="", target=conversation if conversation.strip() else "")


def oasst1(row: Row, template: str, subset: str) -> Iterator[Example]:
    """timdettmers/openassistant-guanaco: `text`, the best-ranked replies of one conversation.

    Learned as a whole (Appendix B.2); its turn markers are those of the template `guanaco_inline`.
    """
    yield from build_conversation_example(get_text(row, "text"))


def hh_rlhf(row: Row, template: str, subset: str) -> Iterator[Example]:
    """Anthropic/hh-rlhf: `chosen` and `rejected`; the chosen conversation, learned as a whole."""
    yield from build_conversation_example(get_text(row, "chosen"))


def alpaca(row: Row, template: str, subset: str) -> Iterator[Example]:
    """yahma/alpaca-cleaned and tatsu-lab/alpaca: `instruction`, `input` (often empty), `output`."""
    yield build_example(
        template,
        get_text(row, "instruction"),
        get_text(row, "output"),
        input=get_text(row, "input"),
    )


def self_instruct(row: Row, template: str, subset: str) -> Iterator[Example]:
    """yizhongw/self_instruct: `prompt` and `completion`."""
    yield build_example(template, get_text(row, "prompt"), get_text(row, "completion"))


def unnatural(row: Row, template: str, subset: str) -> Iterator[Example]:
    """mrm8488/unnatural-instructions-full: one instruction, its instances and its paraphrases.

    `instances` hold instruction_with_input, input, constraints and output; `reformulations`, absent
    from the core set, hold instruction, instruction_with_input, input and output. Together they are
    the 240,670 examples of the paper. The authors' code reads no constraints.
    """
    for instance in (*get_value(row, "instances"), *(row.get("reformulations") or ())):
        yield build_example(
            template, get_text(instance, "instruction_with_input"), get_text(instance, "output")
        )


def longform(row: Row, template: str, subset: str) -> Iterator[Example]:
    """akoksal/LongForm: `input`, an instruction, and `output`, a long text."""
    yield build_example(template, get_text(row, "input"), get_text(row, "output"))


def chip2(row: Row, template: str, subset: str) -> Iterator[Example]:
    """laion/OIG, unified_chip2.jsonl: `text` with the turns "<human>: …" and "<bot>: …".

    The last reply is the target; turns before it, markers and all, belong to the instruction.
    """
    turns, mark, reply = get_text(row, "text").rpartition("<bot>:")
    if not mark:
        raise DataError("column 'text' has a row without the marker '<bot>:'")
    yield build_example(template, turns.strip().removeprefix("<human>:").strip(), reply.strip())


def glue(row: Row, template: str, subset: str) -> Iterator[Example]:
    """nyu-mll/glue: one or two sentences, joined by a line break, and `label`.

    The target is the label's index as text, for stsb its score from 0 to 5.
    Raises DataError for the label -1, which the hub writes where labels are kept secret.
    """
    label = get_value(row, "label")
    if label is None or label < 0:
        raise DataError(
            f"the GLUE task {subset!r} has rows without a label here (label {label}); its test "
            "split is unlabelled, so use data.split=train or data.split=validation"
        )
    sentences = "\n".join(get_text(row, column) for column in GLUE_COLUMNS[subset])
    yield build_example(template, sentences, f"{label:.4g}", task=subset)


def super_ni(row: Row, template: str, subset: str) -> Iterator[Example]:
    """Muennighoff/natural-instructions: `task_name`, `id`, `definition`, `inputs`, `targets`.

    Solved examples of the task, other rows of the set, come between definition and input, as in
    Tk-Instruct. Where they make the source too long the last go first: the input never does.
    """
    definition, inputs = get_text(row, "definition"), get_text(row, "inputs")
    solved: Sequence[Row] = row.get(SOLVED_EXAMPLES, ())
    longest = build_example(
        template,
        prepend_solved_examples(definition, solved),
        get_text(row, "targets"),
        input=f"Input: {inputs}" if solved else inputs,
        task=get_text(row, "task_name"),
    )
    shorter = [
        render_prompt(
            template, prepend_solved_examples(definition, solved[:count]), f"Input: {inputs}"
        )
        for count in reversed(range(len(solved)))
    ]
    yield replace(longest, shorter=tuple(shorter))


def prepend_solved_examples(definition: str, solved: Sequence[Row]) -> str:
    """Return a task's definition followed by solved examples of it.

    >>> print(prepend_solved_examples("Add.", [{"inputs": "1 2", "targets": "3"}]))
    Add.
    <BLANKLINE>
    Example 1
    Input: 1 2
    Answer: 3
    """
    parts = [
        f"Example {number}\nInput: {get_text(row, 'inputs')}\nAnswer: {get_text(row, 'targets')}"
        for number, row in enumerate(solved, start=1)
    ]
    return "\n\n".join([definition, *parts])


def flan_v2(row: Row, template: str, subset: str) -> Iterator[Example]:
    """FLAN v2 as text: `inputs`, `targets` and the task, whose column copies name differently."""
    columns = DATASETS["flan_v2"].task_columns
    task = next((name for name in columns if name in row), columns[0])
    yield build_example(
        template, get_text(row, "inputs"), get_text(row, "targets"), task=get_text(row, task)
    )
