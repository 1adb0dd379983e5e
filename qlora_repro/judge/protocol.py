"""What a judge is sent: prompts by kind of question, the two protocols, requests and their checks.

Section 5.2 of the paper has two protocols: `score10`, two scores out of ten, and `three_class`,
first, second or tie. Our prompts are in prompts/*.txt and put each text between lines that carry a
nonce. A prompt file in the authors' format (and FastChat's) is used as it is; it marks answers with
fixed words, which an answer may imitate.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import count
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlsplit

from qlora_repro.config.schema import JudgeConfig
from qlora_repro.config.validate import check_minimum
from qlora_repro.errors import ConfigError
from qlora_repro.records import Match

PROMPT_KINDS = {"coding": "coding", "math": "maths", "maths": "maths"}  # others: general
NONCE_DIGITS = 16  # hex
REPLY_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "three_class": {"verdict": {"type": "string", "enum": ["1", "2", "3"]}},
    "score10": {"score_1": {"type": "number"}, "score_2": {"type": "number"}},
}
MODES = ("online", "batch")
RESERVED_FIELDS = ("model", "messages", "stream", "n", "response_format")  # not in judge.request
NO_KEY = "none"  # sent to a server that wants no key
TEMPLATE_FIELD = re.compile(r"\{(question|answer_1|answer_2|prompt)\}")
REQUIRED_FIELDS = ("{question}", "{answer_1}", "{answer_2}")
LINE_FORMAT = "a line needs category, system_prompt, prompt_template and defaults.prompt"
Message = dict[str, str]


def build_request(match: Match, cfg: JudgeConfig) -> dict[str, Any]:
    """Return the body of the chat request for a match."""
    body = {"model": cfg.model, "messages": build_messages(match, cfg), **cfg.request}
    if cfg.structured:
        body["response_format"] = build_response_format(cfg.protocol)
    return body


def build_messages(match: Match, cfg: JudgeConfig) -> list[Message]:
    """Return the chat that asks for a verdict on a match, in the order in which it is given."""
    kind = prompt_kind(match.category)
    if cfg.prompts is not None:
        return _chat(*_select_prompt(cfg.prompts, kind).render(match))
    nonce = compute_nonce(match, protocol=cfg.protocol, seed=cfg.seed)
    form = f"form_{cfg.protocol}{'_json' if cfg.structured else ''}"
    reference = ""
    if match.reference:
        reference = _load_template("reference").substitute(nonce=nonce, text=match.reference)
    user = _load_template("match").substitute(
        nonce=nonce,
        question=match.question,
        reference=reference,
        answer_1=match.answer_first,
        answer_2=match.answer_second,
        task=_load_template(kind).template.strip(),
        form=_load_template(form).template.strip(),
    )
    return _chat(_load_template("system").substitute(nonce=nonce), user)


def prompt_kind(category: str) -> str:
    """Return which prompt a category's questions get.

    >>> prompt_kind("math"), prompt_kind("Coding"), prompt_kind("fermi")
    ('maths', 'coding', 'general')
    """
    return PROMPT_KINDS.get(category.lower(), "general")


def compute_nonce(match: Match, *, protocol: str, seed: int) -> str:
    """Return the code that delimits the texts of one request.

    It is a digest of these texts, so that the same match makes the same request, and a text that
    holds its own digest cannot be written; should one hold it by chance, the next is taken.
    """
    texts = (match.question, match.reference, match.answer_first, match.answer_second)
    codes = (
        hashlib.sha256(json.dumps([seed, number, protocol, *texts]).encode()).hexdigest()
        for number in count()
    )
    nonces = (code[:NONCE_DIGITS] for code in codes)
    return next(nonce for nonce in nonces if not any(nonce in text for text in texts))


def build_response_format(protocol: str) -> dict[str, Any]:
    """Return the JSON schema of a structured reply, as a chat request carries it."""
    properties = {"explanation": {"type": "string"}, **REPLY_FIELDS[protocol]}
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
    texts = {"system": system.strip(), "user": user.strip()}
    return [{"role": role, "content": text} for role, text in texts.items() if text]


@cache
def _load_template(name: str) -> Template:
    path = files("qlora_repro.judge") / "prompts" / f"{name}.txt"
    return Template(path.read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One line of a prompt file."""

    system: str
    template: str
    prompt: str

    def render(self, match: Match) -> tuple[str, str]:
        """Return (system message, user message); a field within an answer is not expanded."""
        values = {
            "question": match.question,
            "answer_1": match.answer_first,
            "answer_2": match.answer_second,
            "prompt": self.prompt,
        }
        return self.system, TEMPLATE_FIELD.sub(lambda field: values[field[1]], self.template)


def load_prompt_file(path: str) -> dict[str, Prompt]:
    """Return the prompts of a file by kind of question (general, coding, maths).

    Each of its JSON lines has `category` (general, coding, math), `system_prompt`,
    `prompt_template` with the fields {question}, {answer_1}, {answer_2}, {prompt}, and `defaults`,
    whose `prompt` goes into the template.

    Raises:
        ConfigError: the file cannot be read, or has another format.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"judge.prompts={path} cannot be read as JSON lines ({type(error).__name__}); name a "
            "prompt file in the authors' format"
        ) from error
    if not rows:
        raise ConfigError(f"judge.prompts={path} is empty; {LINE_FORMAT}")
    prompts = {}
    for row in rows:
        try:
            category = str(row["category"])
            prompt = Prompt(
                system=str(row["system_prompt"]),
                template=str(row["prompt_template"]),
                prompt=str(row["defaults"].get("prompt", "")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"judge.prompts={path} has another format; {LINE_FORMAT}") from error
        for field in REQUIRED_FIELDS:
            if field not in prompt.template:
                raise ConfigError(f"judge.prompts={path} has a prompt_template without {field}")
        prompts["maths" if category == "math" else category] = prompt
    return prompts


@cache
def _select_prompt(path: str, kind: str) -> Prompt:
    """Return a prompt file's prompt for a kind of question, or its general one."""
    prompts = load_prompt_file(path)
    prompt = prompts.get(kind) or prompts.get("general")
    if prompt is None:
        raise ConfigError(
            f"judge.prompts={path} has prompts for {', '.join(prompts)}, and needs one whose "
            f"category is general, or {kind}"
        )
    return prompt


def check_settings(cfg: JudgeConfig) -> None:
    """Raise ConfigError for settings that cannot work, before anything is sent."""
    if not cfg.model:
        raise ConfigError(f"judge={cfg.name} names no model; write judge.model=NAME")
    for name, value, known in (
        ("protocol", cfg.protocol, tuple(REPLY_FIELDS)),
        ("mode", cfg.mode, MODES),
    ):
        if value not in known:
            raise ConfigError(f"judge.{name} is {value!r}, and must be one of {', '.join(known)}")
    for name in RESERVED_FIELDS:
        if name in cfg.request:
            raise ConfigError(
                f"judge.request sets {name}, which follows from other settings; drop it"
            )
    if cfg.structured and cfg.prompts is not None:
        raise ConfigError(
            f"judge.structured=true asks for JSON and the prompts in {cfg.prompts} for lines; drop "
            "one of the two"
        )
    client, estimate = cfg.client, cfg.estimate
    check_minimum("judge.client.concurrency", client.concurrency, 1)
    check_minimum("judge.client.attempts", client.attempts, 1)
    check_minimum("judge.client.requests_per_minute", client.requests_per_minute, 1)
    check_minimum("judge.client.tokens_per_minute", client.tokens_per_minute, 1)
    check_minimum("judge.client.backoff", client.backoff, 0)
    check_minimum("judge.client.longest_wait", client.longest_wait, 0)
    check_minimum("judge.client.poll", client.poll, 0)
    check_minimum("judge.client.timeout", client.timeout, 1e-3)
    check_minimum("judge.estimate.chars_per_token", estimate.chars_per_token, 1e-3)
    check_minimum("judge.estimate.reply_tokens", estimate.reply_tokens, 0)
    check_minimum("judge.batch_discount", cfg.batch_discount, 0)
    check_minimum("judge.max_cost", cfg.max_cost, 0)
    _check_address(cfg.base_url)


def _check_address(base_url: str) -> None:
    """Refuse an address that is none, or that holds a password: it would end up in results."""
    parts = urlsplit(base_url)
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            f"judge.base_url holds more than an address ({parts.scheme}://{parts.hostname}...); a "
            "key comes from the environment only"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"judge.base_url is {base_url!r}, and must be like http://localhost:8000/v1"
        )


def read_api_key(cfg: JudgeConfig) -> str:
    """Return the server's key from the environment; ConfigError where there is none."""
    name = cfg.client.key_env
    if name is None:
        return NO_KEY
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            f"judge={cfg.name} needs a key and {name} is not set; set that environment variable, "
            "or write judge.client.key_env=null for a server that wants none"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{name} holds characters that no key has; set it anew")
    return key
