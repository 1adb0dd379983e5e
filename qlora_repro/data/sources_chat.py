"""Conversations and instructions: one function per dataset, from a row of the hub to examples.

Each takes the row, the prompt template and the name of the subset. Where the hub's text already
holds the whole prompt, as in the original training code, conf/ sets the template to `none`.
"""

from collections.abc import Iterator

from qlora_repro.data.sources_rows import Row, example, take, text, whole
from qlora_repro.errors import DataError
from qlora_repro.records import Example


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
