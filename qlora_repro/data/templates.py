"""Prompt templates: an instruction, perhaps with an input, to the source text a model reads.

A template is one of `templates.yaml`, or a file of the user's own, as the authors' wording would
be.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from qlora_repro.config.messages import nearest_names
from qlora_repro.config.schema import names_template_file
from qlora_repro.errors import ConfigError

PLACEHOLDER = re.compile(r"\{(\w+)\}")
PLACEHOLDERS = ("instruction", "input", "source")


@dataclass(frozen=True, kw_only=True)
class Template:
    """One way to write a prompt.

    The two texts have the places {instruction} and {input}, or {source}: both, an empty line
    between them.
    """

    bare: str  # without an input
    with_input: str
    lead: str  # what the target begins with, so that source and target read as one text
    stop: tuple[str, ...]  # what a generated answer ends at, beside end of sequence


# What a file holds beside `prompt`, of each the type.
FILE_FIELDS: dict[str, type] = {"prompt": str, "prompt_with_input": str, "lead": str, "stop": list}
OPTIONAL_FIELDS = ("prompt_with_input",)  # where `prompt` has a place for the input


def render_prompt(template: str, instruction: str, input: str = "") -> str:
    """Return the source text; an empty input has no place in it.

    Raises ConfigError for a template that is neither one of TEMPLATES nor a file that holds one.

    >>> render_prompt("plain", "What is 2 + 2?")
    'What is 2 + 2?\\nAnswer:'
    """
    chosen = get_template(template)
    source = f"{instruction}\n\n{input}" if input else instruction
    texts = {"instruction": instruction, "input": input, "source": source}
    text = chosen.with_input if input else chosen.bare
    return PLACEHOLDER.sub(lambda place: texts[place[1]], text)


def render_target(template: str, answer: str) -> str:
    """Return the target text: the answer, after a space where the source ends without one.

    >>> render_target("plain", "4")
    ' 4'
    """
    lead = get_template(template).lead
    return answer if answer.startswith(lead) else lead + answer


def get_template(template: str) -> Template:
    """Return the template of this name or file; ConfigError with what is wrong about it."""
    if names_template_file(template):
        path = Path(template).expanduser()
        return _read_template(path, _modification_time(path))
    if template not in TEMPLATES:
        near = nearest_names(template, TEMPLATES, cutoff=0)[0]
        raise ConfigError(
            f"there is no prompt template {template!r}; the nearest is {near!r}, and all are "
            f"{', '.join(TEMPLATES)}; your own is a file that ends in .yaml or .json"
        )
    return TEMPLATES[template]


def _modification_time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(
            f"the prompt template {path} cannot be read ({error.strerror}); it is looked for from "
            f"{Path.cwd()}"
        ) from error


@lru_cache(maxsize=8)  # it is asked for with every row
def _read_template(path: Path, modified: int) -> Template:
    try:
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"the prompt template {path} cannot be read: {reason}") from error
    if wrong := _describe_mistake(fields):
        raise ConfigError(f"the prompt template {path} {wrong}")
    return _make_template(fields)


def _make_template(fields: Mapping[str, Any]) -> Template:
    return Template(
        bare=fields["prompt"],
        with_input=fields.get("prompt_with_input", fields["prompt"]),
        lead=fields["lead"],
        stop=tuple(fields["stop"]),
    )


NAMED_TEMPLATES: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_suffix(".yaml").read_text("utf-8")
)
TEMPLATES = {name: _make_template(fields) for name, fields in NAMED_TEMPLATES.items()}


def _describe_mistake(fields: Any) -> str | None:
    """Return what is wrong with a file's contents, as a sentence about it ends; None: nothing."""
    if not isinstance(fields, Mapping):
        return f"holds {type(fields).__name__}, and must hold {', '.join(FILE_FIELDS)}"
    for name in fields:
        if name not in FILE_FIELDS:
            return f"has {name!r}, and may have only {', '.join(FILE_FIELDS)}"
    for name, kind in FILE_FIELDS.items():
        if name not in fields and name not in OPTIONAL_FIELDS:
            return f"has no {name!r}; it states what a prompt, a lead and stop markers are"
        if not isinstance(fields.get(name, kind()), kind):
            return f"has a {name} that is no {'text' if kind is str else 'list of texts'}"
    if not all(isinstance(marker, str) and marker for marker in fields["stop"]):
        return "has a stop that is no list of texts, each of a letter or more"
    return _describe_placeholder_mistake(fields)


def _describe_placeholder_mistake(fields: Mapping[str, Any]) -> str | None:
    alone = "prompt_with_input" not in fields
    needs = {"prompt": {"instruction", "input"} if alone else {"instruction"}}
    needs["prompt_with_input"] = {"instruction", "input"}
    for name in ("prompt", "prompt_with_input"):
        if name not in fields:
            continue
        placeholders = set(PLACEHOLDER.findall(fields[name]))
        if unknown := placeholders - set(PLACEHOLDERS):
            known = _list_placeholders(PLACEHOLDERS)
            return f"has the place {{{min(unknown)}}} in {name}; there are {known}"
        if not (placeholders >= needs[name] or "source" in placeholders):
            also = ", or a prompt_with_input beside it" if alone else ""
            missing = _list_placeholders(sorted(needs[name]))
            return f"has a {name} without {missing} or {{source}}{also}"
    return None


def _list_placeholders(placeholders: Any) -> str:
    return " and ".join(f"{{{place}}}" for place in placeholders)
