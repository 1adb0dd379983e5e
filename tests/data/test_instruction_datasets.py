"""Each dataset's row, in the hub's own schema, to the examples it stands for."""

from typing import Any

import pytest
from datasets import Dataset

from qlora_repro.config.registry import DATASETS, import_function
from qlora_repro.errors import DataError
from qlora_repro.records import Example


def made(name: str, row: dict[str, Any], template: str = "none", subset: str = "") -> list[Example]:
    stored = Dataset.from_list([row])[0]  # as `datasets` hands it over
    return list(import_function(str(DATASETS[name].convert))(stored, template, subset))


def test_oasst1_learns_the_whole_conversation() -> None:
    chat = "### Human: Hi### Assistant: Hello.### Human: Bye### Assistant: See you."
    assert made("oasst1", {"text": chat}, "guanaco") == [Example(source="", target=chat)]


def test_hh_rlhf_learns_the_chosen_conversation() -> None:
    row = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello, how are you?",
        "rejected": "\n\nHuman: Hi\n\nAssistant: What.",
    }
    assert made("hh_rlhf", row, "hh") == [Example(source="", target=row["chosen"])]


def test_alpaca_shows_an_input_only_where_there_is_one() -> None:
    row = {"instruction": "Sort these.", "input": "", "output": "1, 2"}
    (bare,) = made("alpaca", row, "alpaca")
    (full,) = made("alpaca", row | {"input": "2, 1"}, "alpaca")
    assert bare.target == full.target == "1, 2"
    assert "### Input:" not in bare.source
    assert "### Instruction:\nSort these.\n\n### Input:\n2, 1\n\n### Response:\n" in full.source


def test_self_instruct_takes_prompt_and_completion_as_they_are() -> None:
    row = {"prompt": "Name a river.\n\nOutput:", "completion": " The Elbe."}
    assert made("self_instruct", row) == [Example(source=row["prompt"], target=" The Elbe.")]


def test_unnatural_gives_one_example_for_each_instance_and_paraphrase_without_constraints() -> None:
    row = {
        "instruction": "Name the sport: {INPUT}",
        "instances": [
            {
                "instruction_with_input": "Name the sport: a goal was scored",
                "input": "a goal was scored",
                "constraints": "The answer is one word.",
                "output": "football",
            },
            {
                "instruction_with_input": "Name the sport: she served",
                "input": "she served",
                "constraints": "None.",
                "output": "tennis",
            },
        ],
        "reformulations": [
            {
                "instruction": "Which sport? {INPUT}",
                "instruction_with_input": "Which sport? a goal was scored",
                "input": "a goal was scored",
                "output": "football",
            }
        ],
    }
    assert made("unnatural", row) == [
        Example(source="Name the sport: a goal was scored", target="football"),
        Example(source="Name the sport: she served", target="tennis"),
        Example(source="Which sport? a goal was scored", target="football"),
    ]
    del row["reformulations"]  # the core set
    assert len(made("unnatural", row)) == 2


def test_flan_v2_reads_each_name_of_the_task_column() -> None:
    row = {
        "inputs": "Is it so?",
        "targets": "yes",
        "task_source": "Flan2021",
        "task_name": "cola:2.0.0",
        "template_type": "zs_noopt",
    }
    assert made("flan_v2", row) == [Example(source="Is it so?", target="yes", task="cola:2.0.0")]
    for column in ("task", "_task_name"):
        short = {"inputs": "Is it so?", "targets": "yes", column: "flan"}
        assert made("flan_v2", short) == [Example(source="Is it so?", target="yes", task="flan")]


def test_longform_takes_input_and_output() -> None:
    row = {"input": "Tell me of bees.", "output": "Bees …", "source": "C4", "subset": "c4"}
    assert made("longform", row) == [Example(source="Tell me of bees.", target="Bees …")]


def test_chip2_splits_at_the_last_reply() -> None:
    row = {"text": "<human>: Hi\n<bot>: Hello.", "metadata": {"source": "unified_chip2"}}
    assert made("chip2", row) == [Example(source="Hi", target="Hello.")]
    long = {"text": "<human>: A\n<bot>: B\n<human>: C\n<bot>: D"}
    assert made("chip2", long) == [Example(source="A\n<bot>: B\n<human>: C", target="D")]
    with pytest.raises(DataError, match="without the marker '<bot>:'"):
        made("chip2", {"text": "<human>: Hi"})


GLUE = [
    ("cola", {"sentence": "One."}, 1, "One.", "1"),
    ("sst2", {"sentence": "One."}, 0, "One.", "0"),
    ("mrpc", {"sentence1": "One.", "sentence2": "Two."}, 1, "One.\nTwo.", "1"),
    ("qqp", {"question1": "One?", "question2": "Two?"}, 0, "One?\nTwo?", "0"),
    ("stsb", {"sentence1": "One.", "sentence2": "Two."}, 3.799999952316284, "One.\nTwo.", "3.8"),
    ("mnli", {"premise": "One.", "hypothesis": "Two."}, 2, "One.\nTwo.", "2"),
    ("qnli", {"question": "One?", "sentence": "Two."}, 0, "One?\nTwo.", "0"),
    ("rte", {"sentence1": "One.", "sentence2": "Two."}, 1, "One.\nTwo.", "1"),
    ("wnli", {"sentence1": "One.", "sentence2": "Two."}, 0, "One.\nTwo.", "0"),
]


@pytest.mark.parametrize(("task", "sentences", "label", "source", "target"), GLUE)
def test_glue_joins_the_sentences_and_writes_the_label_s_index(
    task: str, sentences: dict[str, str], label: float, source: str, target: str
) -> None:
    row = {**sentences, "label": label, "idx": 0}
    assert made("glue", row, subset=task) == [Example(source=source, target=target, task=task)]


@pytest.mark.parametrize("label", [-1, -1.0])
def test_glue_refuses_the_label_of_the_hidden_test_split(label: float) -> None:
    with pytest.raises(DataError, match="'cola' has rows without a label"):
        made("glue", {"sentence": "One.", "label": label, "idx": 0}, subset="cola")


def test_super_ni_puts_the_definition_before_the_input() -> None:
    row = {
        "task_name": "task001_sums",
        "id": "task001-1",
        "definition": "Add the numbers.",
        "inputs": "1 2",
        "targets": "3",
    }
    assert made("super_ni", row, "plain") == [
        Example(source="Add the numbers.\n\n1 2\nAnswer:", target=" 3", task="task001_sums")
    ]


def test_super_ni_shows_solved_examples_between_definition_and_input() -> None:
    row = {
        "task_name": "task001_sums",
        "definition": "Add the numbers.",
        "inputs": "1 2",
        "targets": "3",
        "solved": [{"inputs": "4 5", "targets": "9"}],
    }
    (shown,) = made("super_ni", row, "plain")
    assert shown.source == (
        "Add the numbers.\n\nExample 1\nInput: 4 5\nAnswer: 9\n\nInput: 1 2\nAnswer:"
    )
    assert shown.shorter == ("Add the numbers.\n\nInput: 1 2\nAnswer:",)


EMPTY = {
    "oasst1": {"text": ""},
    "hh_rlhf": {"chosen": "", "rejected": "x"},
    "alpaca": {"instruction": "a", "input": "", "output": ""},
    "self_instruct": {"prompt": "a", "completion": " "},
    "flan_v2": {"inputs": "a", "targets": None, "task_name": "t"},
    "longform": {"input": "a", "output": ""},
    "chip2": {"text": "<human>: a\n<bot>: "},
    "super_ni": {"task_name": "t", "id": "1", "definition": "a", "inputs": "b", "targets": ""},
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_answer_stays_empty_under_every_template(name: str) -> None:
    assert [example.target for example in made(name, EMPTY[name], "plain")] == [""]
