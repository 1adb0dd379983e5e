"""From a stored reply to a verdict."""

from typing import Any

from qlora_repro.config import JudgeConfig
from qlora_repro.judge.online import REJECTED
from qlora_repro.judge.parse import PARSERS, Reading
from qlora_repro.judge.protocol import kind_of
from qlora_repro.judge.structured import read_structured
from qlora_repro.judge.verdict import Source, judgment
from qlora_repro.records import Judgment, Match


def verdict(match: Match, cfg: JudgeConfig, *, key: str, reply: dict[str, Any]) -> Judgment:
    """Return the judgment that a stored reply holds."""
    source = Source(
        judge=str(cfg.model),
        protocol=cfg.protocol,
        prompt=kind_of(match.category),
        reply=key,
        model=str(reply.get("model") or ""),
        fingerprint=str(reply.get("system_fingerprint") or ""),
    )
    return judgment(match, source, read(reply, cfg.protocol, structured=cfg.structured))


def read(reply: dict[str, Any], protocol: str, *, structured: bool) -> Reading:
    """Read a chat completion; a refusal or a filtered reply is named as such.

    >>> said = {"message": {"content": "Equal.\\n3", "refusal": None}, "finish_reason": "stop"}
    >>> read({"choices": [said]}, "three_class", structured=False).verdict
    'tie'
    >>> said = {"message": {"content": None, "refusal": "I will not judge this."}}
    >>> read({"choices": [said]}, "three_class", structured=False).parse
    'refused'
    """
    if REJECTED in reply:
        return Reading(parse="api_error")
    choice = reply["choices"][0]
    if choice["message"].get("refusal") or choice.get("finish_reason") == "content_filter":
        return Reading(parse="refused")
    text = content(choice["message"])
    return read_structured(protocol, text) if structured else PARSERS[protocol](text)


def content(message: dict[str, Any]) -> str:
    """Return a message's text, also where a server sends it in parts.

    >>> content({"content": [{"type": "text", "text": "Fine.\\n"}, {"type": "text", "text": "1"}]})
    'Fine.\\n1'
    """
    found = message.get("content")
    if isinstance(found, list):
        return "".join(str(part.get("text", "")) for part in found if isinstance(part, dict))
    return found if isinstance(found, str) else ""
