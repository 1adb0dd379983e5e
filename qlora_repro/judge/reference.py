"""The reference judge: whose answer has more in common with the right one. No model, no order.

It is offline and deterministic, a stand-in for a judge that reads: it knows wording, not sense.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from qlora_repro.config_judge import JudgeConfig
from qlora_repro.errors import DataError
from qlora_repro.judge.parse import Reading
from qlora_repro.judge.verdict import Source, judgment
from qlora_repro.records import Judgment, Match


class Words:
    """Words and numbers of any script; a minus sign belongs to its number."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words in lower case.

        >>> Words().tokenize("Ответ: -3, not 3.")
        ['ответ', '-3', 'not', '3']
        """
        return re.findall(r"(?<!\w)-\d+|\w+", text.lower())


@cache
def scorer() -> Any:
    """Return the scorer; it is imported when first asked for, as that takes a second."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=Words())


def overlap(answer: str, reference: str) -> float:
    """Return RougeL, the F-measure of the longest common subsequence of words, in [0, 1].

    >>> overlap("It is 4", "4"), overlap("-4", "4")
    (0.5, 0.0)
    """
    return float(scorer().score(reference, answer)["rougeL"].fmeasure)


def verdict(first: str, second: str, reference: str, *, margin: float) -> str:
    """Return "first", "second" or "tie"; swapping the answers swaps the verdict.

    >>> verdict("4", "It is 5", "4", margin=0.05)
    'first'
    """
    lead = overlap(first, reference) - overlap(second, reference)
    if abs(lead) <= margin:
        return "tie"
    return "first" if lead > 0 else "second"


def judge_reference(matches: Sequence[Match], cfg: JudgeConfig, folder: Path) -> list[Judgment]:
    """Judge every match whose question has a reference answer; the others get no row.

    Nothing is kept in `folder`. Raises DataError when no question has one.
    """
    usable = [match for match in matches if match.reference.strip()]
    if matches and not usable:
        raise DataError(
            "judge=reference compares with a right answer, and no question has one; use "
            "generate=procedural, or questions with a `reference` field"
        )
    source = Source(judge=cfg.name, protocol="three_class")
    rows = []
    for match in usable:
        found = verdict(match.answer_first, match.answer_second, match.reference, margin=cfg.margin)
        rows.append(
            judgment(match, source, Reading(verdict=found, verdict_lenient=found, parse="ok"))
        )
    return rows
