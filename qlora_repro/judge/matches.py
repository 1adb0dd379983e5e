"""Two systems' answers to the same questions, as the matches that a judge is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qlora_repro.data.questions import Question
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.judge.systems import System
from qlora_repro.records import Match


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """One system against another, on every question that both answered."""

    system: System
    opponent: System
    benchmark: str
    matches: list[Match]  # the system first, then, in both orders, the opponent first
    prompts: int  # questions both answered
    unanswered: int  # questions that only one of them answered
    identical: int  # questions to which both gave the same answer, letter for letter


def pair(
    system: System, opponent: System, *, both_orders: bool, asked: Sequence[Question] = ()
) -> Pairing:
    """Return the matches of two systems, question by question.

    Where both systems know what was asked, equal ids with different texts are different questions.
    asked: the questions, for systems of which only answers are at hand. Raises ConfigError for a
    system against itself, DataError where no question is shared.
    """
    if system.name == opponent.name:
        raise ConfigError(
            f"{system.name} is judged against itself; judge.opponent must be another run or file"
        )
    known = {question.question_id: question for question in asked}
    texts = known | dict(opponent.asked) | dict(system.asked)
    either = {*system.answers, *opponent.answers}
    shared = [
        texts[name]
        for name in system.answers
        if name in opponent.answers and name in texts and _same(system, opponent, name)
    ]
    if not shared:
        raise DataError(_why_none(system, opponent, texts))
    there = [_match(system, opponent, question) for question in shared]
    back = [_match(opponent, system, question) for question in shared] if both_orders else []
    return Pairing(
        system=system,
        opponent=opponent,
        benchmark=system.benchmark or opponent.benchmark,
        matches=[*there, *back],
        prompts=len(shared),
        unanswered=len(either) - len(shared),
        identical=sum(match.answer_first == match.answer_second for match in there),
    )


def _same(system: System, opponent: System, name: str) -> bool:
    both = system.asked.get(name), opponent.asked.get(name)
    return None in both or both[0].text == both[1].text  # type: ignore[union-attr]


def _why_none(system: System, opponent: System, texts: Mapping[str, Question]) -> str:
    names = f"{system.name} and {opponent.name}"
    if not texts:
        return (
            f"neither of {names} says what was asked; add generate=local generate.questions=FILE, "
            "the questions of these answers"
        )
    return (
        f"{names} answered no question in common ({len(system.answers)} and "
        f"{len(opponent.answers)} answers); both need the same questions"
    )


def _match(first: System, second: System, question: Question) -> Match:
    return Match(
        question_id=question.question_id,
        question=question.text,
        category=question.category,
        lang=question.lang,
        first=first.name,
        second=second.name,
        answer_first=first.answers[question.question_id],
        answer_second=second.answers[question.question_id],
        reference=question.reference,
    )
