"""Prompt files in the format of the authors' release (and of FastChat's): JSON lines.

Each line has `category` (general, coding, math), `system_prompt`, `prompt_template` with the fields
{question}, {answer_1}, {answer_2}, {prompt}, and `defaults`, whose `prompt` goes into the template.
Such prompts mark answers with fixed words, which an answer may imitate; they have no nonce.

What a judge is asked: prompts by kind of question, answers between lines that carry a nonce.

Two protocols (Section 5.2 of the paper): `score10`, two scores out of ten, and `three_class`,
first, second or tie. The words are in prompts/*.txt, or in a file of the authors' own.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.errors import ConfigError
from qlora_repro.records import Match

FIELD = re.compile(r"\{(question|answer_1|answer_2|prompt)\}")
NEEDED = ("{question}", "{answer_1}", "{answer_2}")
NEEDS = "a line needs category, system_prompt, prompt_template and defaults.prompt"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One line of a prompt file."""

    system: str
    template: str
    prompt: str

    def render(self, match: Match) -> tuple[str, str]:
        """Return (system message, user message); fields are put in at once, so none is expanded."""
        values = {
            "question": match.question,
            "answer_1": match.answer_first,
            "answer_2": match.answer_second,
            "prompt": self.prompt,
        }
        return self.system, FIELD.sub(lambda found: values[found[1]], self.template)


def read_prompt_file(path: str) -> dict[str, Prompt]:
    """Return the prompts of a file by kind of question (general, coding, maths); or ConfigError."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"judge.prompts={path} cannot be read as JSON lines ({type(error).__name__}); name a "
            "prompt file in the authors' format"
        ) from error
    if not rows:
        raise ConfigError(f"judge.prompts={path} is empty; {NEEDS}")
    found = {}
    for row in rows:
        category, prompt = _prompt(row, path=path)
        found[{"math": "maths"}.get(category, category)] = prompt
    return found


def _prompt(row: Any, *, path: str) -> tuple[str, Prompt]:
    try:
        parts = row["category"], row["system_prompt"], row["prompt_template"]
        asked = row["defaults"].get("prompt", "")
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"judge.prompts={path} has another format; {NEEDS}") from error
    category, system, template = map(str, parts)
    missing = [field for field in NEEDED if field not in template]
    if missing:
        raise ConfigError(f"judge.prompts={path} has a prompt_template without {missing[0]}")
    return category, Prompt(system=system, template=template, prompt=str(asked))


KINDS = {"coding": "coding", "math": "maths", "maths": "maths"}  # by category; others: general
NONCE = 16  # hex digits
_VERDICT = {"verdict": {"type": "string", "enum": ["1", "2", "3"]}}
_SCORES = {"score_1": {"type": "number"}, "score_2": {"type": "number"}}
ASKED_FIELDS: Mapping[str, Mapping[str, Any]] = {"three_class": _VERDICT, "score10": _SCORES}
Message = dict[str, str]


def kind_of(category: str) -> str:
    """Return which prompt a category's questions get.

    >>> kind_of("math"), kind_of("Coding"), kind_of("fermi")
    ('maths', 'coding', 'general')
    """
    return KINDS.get(category.lower(), "general")


def messages(match: Match, cfg: JudgeConfig) -> list[Message]:
    """Return the chat that asks for a verdict on a match, in the order in which it is given."""
    kind = kind_of(match.category)
    if cfg.prompts is not None:
        return _chat(*_authors(cfg.prompts, kind).render(match))
    mark = nonce(match, protocol=cfg.protocol, seed=cfg.seed)
    form = f"form_{cfg.protocol}{'_json' if cfg.structured else ''}"
    reference = ""
    if match.reference:
        reference = _text("reference").substitute(nonce=mark, text=match.reference)
    user = _text("match").substitute(
        nonce=mark,
        question=match.question,
        reference=reference,
        answer_1=match.answer_first,
        answer_2=match.answer_second,
        task=_text(kind).template.strip(),
        form=_text(form).template.strip(),
    )
    return _chat(_text("system").substitute(nonce=mark), user)


def nonce(match: Match, *, protocol: str, seed: int) -> str:
    """Return the code that delimits the texts of one request.

    It is a digest of these texts, so that the same match makes the same request, and a text that
    holds its own digest cannot be written; should one hold it by chance, the next is taken.
    """
    texts = (match.question, match.reference, match.answer_first, match.answer_second)
    number = 0
    while True:
        drawn = json.dumps([seed, number, protocol, *texts]).encode()
        code = hashlib.sha256(drawn).hexdigest()[:NONCE]
        if not any(code in text for text in texts):
            return code
        number += 1


def response_format(protocol: str) -> dict[str, Any]:
    """Return the JSON schema of a structured reply, as a chat request carries it."""
    properties = {"explanation": {"type": "string"}, **ASKED_FIELDS[protocol]}
    return {
        "type": "json_schema",
        "json_schema": {
            "name": protocol,
            "strict": True,
            "schema": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
        },
    }


def _chat(system: str, user: str) -> list[Message]:
    shown = [("system", system.strip()), ("user", user.strip())]
    return [{"role": role, "content": text} for role, text in shown if text]


@cache
def _text(name: str) -> Template:
    path = files("qlora_repro.judge") / "prompts" / f"{name}.txt"
    return Template(path.read_text(encoding="utf-8"))


@cache
def _authors(path: str, kind: str) -> Prompt:
    """Return the authors' prompt for a kind of question; the general one where they have no own."""
    prompts = read_prompt_file(path)
    found = prompts.get(kind) or prompts.get("general")
    if found is None:
        raise ConfigError(
            f"judge.prompts={path} has prompts for {', '.join(prompts)}, and needs one whose "
            f"category is general, or {kind}"
        )
    return found
