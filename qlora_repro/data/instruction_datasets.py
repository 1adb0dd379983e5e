"""What every source needs of a row: its columns by name, and an example out of its texts.

Conversations and instructions: one function per dataset, from a row of the hub to examples.

Each takes the row, the prompt template and the name of the subset. Where the hub's text already
holds the whole prompt, as in the original training code, conf/ sets the template to `none`.

Collections of tasks: one function per dataset, from a row of the hub to examples.

Each takes the row, the prompt template and the name of the subset.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from qlora_repro.data.templates import render, target
from qlora_repro.errors import DataError
from qlora_repro.records import Example

Row = Mapping[str, Any]


def take(row: Row, column: str) -> Any:
    """Return the row's value in a column; DataError with the columns there are if it has none."""
    if column not in row:
        near = get_close_matches(column, row, n=1, cutoff=0.0)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise DataError(f"there is no column {column!r} among {', '.join(row)}{hint}")
    return row[column]


def text(row: Row, column: str) -> str:
    """Return the row's text in a column, a missing value as an empty one."""
    value = take(row, column)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise DataError(
            f"column {column!r} holds {type(value).__name__} values, and must hold text or numbers"
        )
    return str(value)


def example(
    template: str, instruction: str, answer: str, *, input: str = "", task: str = ""
) -> Example:
    """Return the example of one instruction; an empty answer stays empty, to be refused later."""
    return Example(
        source=render(template, instruction, input),
        target=target(template, answer) if answer.strip() else "",
        task=task,
    )


def whole(conversation: str) -> Iterator[Example]:
    """Yield a conversation that is trained on from its first word: nothing but target."""
    yield Example(source="", target=conversation if conversation.strip() else "")


def oasst1(row: Row, template: str, subset: str) -> Iterator[Example]:
    """timdettmers/openassistant-guanaco: `text`, the best-ranked replies of one conversation.

    Learned as a whole (Appendix B.2); its turn markers are those of the template `guanaco_inline`.
    """
    yield from whole(text(row, "text"))


def hh_rlhf(row: Row, template: str, subset: str) -> Iterator[Example]:
    """Anthropic/hh-rlhf: `chosen` and `rejected`; the chosen conversation, learned as a whole."""
    yield from whole(text(row, "chosen"))


def alpaca(row: Row, template: str, subset: str) -> Iterator[Example]:
    """yahma/alpaca-cleaned and tatsu-lab/alpaca: `instruction`, `input` (often empty), `output`."""
    yield example(template, text(row, "instruction"), text(row, "output"), input=text(row, "input"))


def self_instruct(row: Row, template: str, subset: str) -> Iterator[Example]:
    """yizhongw/self_instruct: `prompt` and `completion`."""
    yield example(template, text(row, "prompt"), text(row, "completion"))


def unnatural(row: Row, template: str, subset: str) -> Iterator[Example]:
    """mrm8488/unnatural-instructions-full: one instruction, its instances and its paraphrases.

    `instances` hold instruction_with_input, input, constraints and output; `reformulations`, absent
    from the core set, hold instruction, instruction_with_input, input and output. Together they are
    the 240,670 examples of the paper. The authors' code reads no constraints.
    """
    for instance in (*take(row, "instances"), *(row.get("reformulations") or ())):
        yield example(template, text(instance, "instruction_with_input"), text(instance, "output"))


def longform(row: Row, template: str, subset: str) -> Iterator[Example]:
    """akoksal/LongForm: `input`, an instruction, and `output`, a long text."""
    yield example(template, text(row, "input"), text(row, "output"))


def chip2(row: Row, template: str, subset: str) -> Iterator[Example]:
    """laion/OIG, unified_chip2.jsonl: `text` with the turns "<human>: …" and "<bot>: …".

    The last reply is the target; turns before it, markers and all, belong to the instruction.
    """
    turns, mark, reply = text(row, "text").rpartition("<bot>:")
    if not mark:
        raise DataError("column 'text' has a row without the marker '<bot>:'")
    yield example(template, turns.strip().removeprefix("<human>:").strip(), reply.strip())


SOLVED = "solved"  # where a row of Super-NaturalInstructions has its task's solved examples
FLAN_TASK_COLUMNS = ("task_name", "_task_name", "task")  # in one copy or another
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


def glue(row: Row, template: str, subset: str) -> Iterator[Example]:
    """nyu-mll/glue: one or two sentences, joined by a line break, and `label`.

    The target is the label's index as text, for stsb its score from 0 to 5.
    Raises DataError for the label -1, which the hub writes where labels are kept secret.
    """
    label = take(row, "label")
    if label is None or label < 0:
        raise DataError(
            f"the GLUE task {subset!r} has rows without a label here (label {label}); its test "
            "split is unlabelled, so use data.split=train or data.split=validation"
        )
    sentences = "\n".join(text(row, column) for column in GLUE_COLUMNS[subset])
    yield example(template, sentences, f"{label:.4g}", task=subset)


def super_ni(row: Row, template: str, subset: str) -> Iterator[Example]:
    """Muennighoff/natural-instructions: `task_name`, `id`, `definition`, `inputs`, `targets`.

    Solved examples of the task, other rows of the set, come between definition and input, as in
    Tk-Instruct. Where they make the source too long the last go first: the input never does.
    """
    definition, inputs = text(row, "definition"), text(row, "inputs")
    solved: Sequence[Row] = row.get(SOLVED, ())
    longest = example(
        template,
        with_examples(definition, solved),
        text(row, "targets"),
        input=f"Input: {inputs}" if solved else inputs,
        task=text(row, "task_name"),
    )
    shorter = [
        render(template, with_examples(definition, solved[:count]), f"Input: {inputs}")
        for count in reversed(range(len(solved)))
    ]
    yield replace(longest, shorter=tuple(shorter))


def with_examples(definition: str, solved: Sequence[Row]) -> str:
    """Return a task's definition followed by solved examples of it.

    >>> print(with_examples("Add.", [{"inputs": "1 2", "targets": "3"}]))
    Add.
    <BLANKLINE>
    Example 1
    Input: 1 2
    Answer: 3
    """
    parts = [
        f"Example {number}\nInput: {text(row, 'inputs')}\nAnswer: {text(row, 'targets')}"
        for number, row in enumerate(solved, start=1)
    ]
    return "\n\n".join([definition, *parts])


def flan_v2(row: Row, template: str, subset: str) -> Iterator[Example]:
    """FLAN v2 as text: `inputs`, `targets` and the task, whose column copies name differently."""
    task = next((name for name in FLAN_TASK_COLUMNS if name in row), FLAN_TASK_COLUMNS[0])
    yield example(template, text(row, "inputs"), text(row, "targets"), task=text(row, task))
