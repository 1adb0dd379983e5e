"""Prompt files in the format of the authors' release (and of FastChat's): JSON lines.

Each line has `category` (general, coding, math), `system_prompt`, `prompt_template` with the fields
{question}, {answer_1}, {answer_2}, {prompt}, and `defaults`, whose `prompt` goes into the template.
Such prompts mark answers with fixed words, which an answer may imitate; they have no nonce.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
