"""Collections of tasks: one function per dataset, from a row of the hub to examples.

Each takes the row, the prompt template and the name of the subset.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from qlora_repro.data.prompts import render
from qlora_repro.data.sources_rows import Row, example, take, text
from qlora_repro.errors import DataError
from qlora_repro.records import Example

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
