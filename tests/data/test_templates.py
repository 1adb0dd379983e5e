import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from qlora_repro.data.templates import TEMPLATES, get_template, render_prompt, render_target
from qlora_repro.errors import ConfigError


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_source_holds_the_instruction_and_the_input_once(template: str) -> None:
    source = render_prompt(template, "Translate {this}.", "le {chat}")
    assert source.count("Translate {this}.") == source.count("le {chat}") == 1
    assert source.index("Translate") < source.index("le {chat}")
    assert "{instruction}" not in source


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "none"])
def test_source_and_target_meet_at_exactly_one_blank(template: str) -> None:
    joined = render_prompt(template, "Q") + render_target(template, "A")
    assert joined[-1] == "A"
    assert joined[-2].isspace()
    assert joined[-3] == ":"


@pytest.mark.parametrize("template", TEMPLATES)
def test_no_source_ends_in_a_space_that_the_tokenizer_would_tear_off(template: str) -> None:
    assert not render_prompt(template, "Q").endswith(" ")


def test_none_adds_nothing() -> None:
    assert render_prompt("none", "Q") + render_target("none", " A") == "Q A"


def test_a_space_that_the_answer_brings_is_not_doubled() -> None:
    assert render_target("plain", " yes") == render_target("plain", "yes") == " yes"


def test_an_answer_does_not_hold_the_marker_that_ends_it() -> None:
    for name, template in TEMPLATES.items():
        assert not any(stop in render_target(name, "one line") for stop in template.stop)
        assert name == "none" or template.stop


def test_an_unknown_template_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no prompt template 'alpacca'; the nearest is 'alpaca'"):
        render_prompt("alpacca", "Q")


def test_guanacos_markers_stand_on_one_line_as_in_the_released_prompts() -> None:
    assert render_prompt("guanaco_inline", "Q").endswith(" ### Human: Q ### Assistant:")
    assert "\n" not in render_prompt("guanaco_inline", "Q")


ALPACA = {  # of the form of the authors' two prompts: a space ends them, the answer begins bare
    "prompt": "Intro one.\n\n### Instruction:\n{instruction}\n\n### Response: ",
    "prompt_with_input": "Intro two.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}"
    "\n\n### Response: ",
    "lead": "",
    "stop": ["\n### Instruction:"],
}


def written(folder: Path, fields: Any, *, suffix: str = ".yaml") -> str:
    path = folder / f"mine{suffix}"
    path.write_text(json.dumps(fields) if suffix == ".json" else yaml.safe_dump(fields))
    return str(path)


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_a_file_writes_prompts_as_the_authors_of_alpaca_do(tmp_path: Path, suffix: str) -> None:
    mine = written(tmp_path, ALPACA, suffix=suffix)
    with_input = "Intro two.\n\n### Instruction:\nAdd {x}.\n\n### Input:\n1 2\n\n### Response: "
    assert render_prompt(mine, "Add {x}.", "1 2") == with_input
    assert render_prompt(mine, "Add.") == "Intro one.\n\n### Instruction:\nAdd.\n\n### Response: "
    assert render_target(mine, "3") == "3"
    assert get_template(mine).stop == ("\n### Instruction:",)


def test_a_file_writes_prompts_as_guanaco_trains_on_them(tmp_path: Path) -> None:
    fields = {
        "prompt": "### Human: {source}### Assistant:",
        "lead": " ",
        "stop": ["### Human:", "### Assistant:"],
    }
    mine = written(tmp_path, fields)
    assert render_prompt(mine, "Q") + render_target(mine, "A") == "### Human: Q### Assistant: A"
    assert render_prompt(mine, "Q", "I") == "### Human: Q\n\nI### Assistant:"


def test_a_file_that_was_edited_is_read_again(tmp_path: Path) -> None:
    mine = written(tmp_path, ALPACA)
    assert render_prompt(mine, "Q").startswith("Intro one.")
    written(tmp_path, ALPACA | {"prompt": "Other {instruction}"})
    assert render_prompt(mine, "Q") == "Other Q"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (["x"], "holds list, and must hold prompt, prompt_with_input, lead, stop"),
        ({"prompt": "{source}", "lead": ""}, "has no 'stop'; it states"),
        (ALPACA | {"stops": []}, "has 'stops', and may have only prompt, prompt_with_input, lead"),
        (ALPACA | {"lead": None}, "has a lead that is no text"),
        (ALPACA | {"stop": "###"}, "has a stop that is no list of texts"),
        (ALPACA | {"stop": [""]}, "has a stop that is no list of texts, each of a letter or more"),
        (ALPACA | {"prompt": "Q:"}, r"has a prompt without {instruction} or {source}$"),
        (ALPACA | {"prompt": "{question}"}, r"has the place {question} in prompt; there are {inst"),
        (
            ALPACA | {"prompt_with_input": "{instruction}"},
            r"has a prompt_with_input without {input} and {instruction} or {source}$",
        ),
        (
            {"prompt": "{instruction}", "lead": "", "stop": []},
            r"without {input} and {instruction} or {source}, or a prompt_with_input beside it$",
        ),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence_that_names_it(
    tmp_path: Path, fields: Any, says: str
) -> None:
    mine = written(tmp_path, fields)
    with pytest.raises(ConfigError, match=says) as caught:
        render_prompt(mine, "Q")
    assert mine in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("suffix", "text"), [(".yaml", "a: [1"), (".json", "{"), (".yaml", None)])
def test_a_file_that_is_none_or_cannot_be_parsed_is_named(
    tmp_path: Path, suffix: str, text: str | None
) -> None:
    path = tmp_path / f"mine{suffix}"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=rf"prompt template {path} cannot be read"):
        render_prompt(str(path), "Q")
