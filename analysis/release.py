"""The released verdicts, rebuilt from a checkout of the authors' repository (artidoro/qlora).

A review's score is the one that the authors published. Their own rule reads the last line, which is
1, 2 or 3, or the first, which is two numbers; where it fails and there is a score all the same,
people filled it in. What it cannot read is read again with the lenient rules of our judge.

Which answer was shown first is decided by answer ids: most names of files of scores state the
opposite order. Ids of the trained systems' answers are hashes of their text. Human votes are not
read from the checkout: the rows of the parquet that is there already are kept.
"""

import json
import re
import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qlora_repro.config.paths import RELEASED_VERDICTS
from qlora_repro.errors import DataError
from qlora_repro.judge.parsing import (
    VERDICT_BY_NUMBER,
    explain_failure,
    parse_scores_leniently,
    parse_verdict_leniently,
    verdict_from_scores,
)
from qlora_repro.store.verdicts import (
    COLUMNS,
    complete_columns,
    load_released_verdicts,
    write_verdicts,
)

SIDES = ("first", "second")
NO_SCORE = -1  # stands for no score in the release
RATINGS = {  # folder -> (benchmark, protocol)
    "eval/ratings-gpt4/vicuna/relative-gpt-3.5": ("vicuna", "score10"),
    "eval/ratings-gpt4/vicuna/pairwise": ("vicuna", "three_class"),
    "eval/ratings-gpt4/oa": ("oa", "three_class"),
}
FILE_ENDINGS = ("-gpt4-reviewer", "-gpt-4-reviewer-threeclass")
GENERATIONS = "eval/generations"
QUESTIONS = {  # benchmark -> (file, id, what of it the verdicts keep)
    "vicuna": ("eval/prompts/vicuna_questions.jsonl", "question_id", "category"),
    "oa": ("eval/prompts/oa_questions.jsonl", "message_id", "lang"),
}
ORDER = ["judge", "benchmark", "protocol", "first", "second", "question"]
PROMPTS = {1: "general", 2: "coding", 3: "maths"}
TUNED_SYSTEM = re.compile(r"(\d+)b?-([a-z0-9-]+?)-(?:vicuna|oa)-generations.*")
SIZES = {"30": "33"}  # the files say 30B where the paper says 33B
OTHERS = {
    **dict.fromkeys(("gpt-3.5", "answer-gpt35", "answer_gpt35"), "chatgpt-3.5"),
    "gpt-3.5-oa-generations": "chatgpt-3.5",
    **dict.fromkeys(("gpt4", "answer-gpt4", "answer_gpt4", "gpt-4-oa-generations"), "gpt-4"),
    **dict.fromkeys(("bard", "answer-bard", "answer_bard"), "bard"),
    **dict.fromkeys(("vicuna-13b", "answer-vicuna-13b", "answer_vicuna-13b"), "vicuna-13b"),
    "vicuna-13b-oa-generations": "vicuna-13b",
}
# as the shortuuid package writes a number
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def read_review(review: dict[str, Any], protocol: str) -> dict[str, Any]:
    """Return the columns of a verdict that a review gives: scores, verdict, parse, lenient ones."""
    reading = _read_scores(review) if protocol == "score10" else _read_class(review)
    if reading["parse"] == "unread":
        reading["parse"] = explain_failure(review["text"])
    return reading


def parse_scores_strictly(text: str) -> tuple[float, float] | None:
    r"""Read two numbers from the first line, as the authors' program does.

    >>> parse_scores_strictly("8, 9\nBoth"), parse_scores_strictly("8/10 9/10")
    ((8.0, 9.0), None)
    """
    try:
        first, second = (float(part) for part in text.split("\n")[0].replace(",", " ").split())
    except ValueError:
        return None
    return first, second


def parse_class_strictly(text: str) -> str | None:
    r"""Read the last line, as the authors' program does.

    >>> str(parse_class_strictly("Both are good.\n3 ")), parse_class_strictly("Best: 1")
    ('tie', None)
    """
    return VERDICT_BY_NUMBER.get(text.strip().split("\n")[-1].strip())


def _read_scores(review: dict[str, Any]) -> dict[str, Any]:
    text, (first, second) = review["text"], review["score"]
    given = None if NO_SCORE in (first, second) else (float(first), float(second))
    pair, rule = parse_scores_strictly(text) if given else None, ""
    parse = "ok" if pair else "hand_filled"
    if pair is None:
        pair, rule = parse_scores_leniently(text)
    if given is None:
        parse = f"recovered:{rule}" if pair else "unread"
    pair = pair or given
    return {
        "score_first": given and given[0],
        "score_second": given and given[1],
        "verdict": given and verdict_from_scores(given),
        "parse": parse,
        "score_first_lenient": pair and pair[0],
        "score_second_lenient": pair and pair[1],
        "verdict_lenient": pair and verdict_from_scores(pair),
    }


def _read_class(review: dict[str, Any]) -> dict[str, Any]:
    text = review["text"]
    given = None if review["score"] == NO_SCORE else VERDICT_BY_NUMBER[str(review["score"])]
    if given is not None:
        parse = "ok" if parse_class_strictly(text) else "hand_filled"
        return {"verdict": given, "verdict_lenient": given, "parse": parse}
    lenient, rule = parse_verdict_leniently(text)
    parse = f"recovered:{rule}" if lenient else "unread"
    return {"verdict": None, "verdict_lenient": lenient, "parse": parse}


@dataclass(frozen=True, kw_only=True)
class ReleaseImport:
    """What a checkout holds."""

    verdicts: pd.DataFrame  # COLUMNS
    files: int
    misnamed: list[str]  # whose name states the order that was not shown
    unsure: list[str]  # whose order no answer id tells: taken from the name
    unknown: list[str]  # files of answers of systems that no rating is of


def import_release(checkout: Path) -> ReleaseImport:
    """Read every file of GPT-4's ratings; DataError for one that cannot be, or for none at all."""
    paths = [
        (path, kind) for folder, kind in RATINGS.items() for path in _list_files(checkout / folder)
    ]
    if not paths:
        raise DataError(
            f"{checkout} has no ratings in {', '.join(RATINGS)}; name a checkout of artidoro/qlora"
        )
    ids, lengths, unknown = load_answer_ids(checkout)
    known = {benchmark: _load_questions(checkout, benchmark) for benchmark in QUESTIONS}
    rows: list[dict[str, Any]] = []
    misnamed, unsure = [], []
    for path, (benchmark, protocol) in paths:
        reviews = _read_lines(path)
        named = parse_file_name(path.stem)
        order = infer_order(reviews, named, ids[benchmark])
        unsure += [path.name] if order is None else []
        misnamed += [path.name] if order == named[::-1] else []
        first, second = order or named
        for review in reviews:
            question = str(review.get("question_id", review.get("message_id")))
            row: dict[str, Any] = {"judge": "gpt-4", "benchmark": benchmark, "protocol": protocol}
            row |= {"question": question, "first": first, "second": second}
            row |= known[benchmark].get(question, {})
            row |= {"prompt": PROMPTS.get(review["reviewer_id"], "")}
            row |= {"answer_first": review["answer1_id"], "answer_second": review["answer2_id"]}
            row |= {f"chars_{side}": lengths.get(row[f"answer_{side}"]) for side in SIDES}
            rows.append(row | read_review(review, protocol))
    frame = complete_columns(pd.DataFrame(rows), "")
    return ReleaseImport(
        verdicts=frame.sort_values(ORDER, kind="stable", ignore_index=True),
        files=len(paths),
        misnamed=misnamed,
        unsure=unsure,
        unknown=unknown,
    )


def add_human_votes(imported: pd.DataFrame, shipped: pd.DataFrame) -> pd.DataFrame:
    """Return imported verdicts together with the human votes of those that were shipped."""
    human = shipped[shipped["judge"].str.startswith("human-")]
    both = pd.concat([imported.astype(human.dtypes.to_dict()), human])
    return both.sort_values(ORDER, kind="stable", ignore_index=True)


def count_differences(imported: pd.DataFrame, shipped: pd.DataFrame) -> tuple[int, int]:
    """Return how many imported verdicts the shipped ones have too, and how many of them differ."""
    typed = imported.astype(shipped.dtypes.to_dict())
    joined = typed.merge(shipped, on=ORDER, suffixes=("", " shipped"))
    rest = [name for name in COLUMNS if name not in ORDER]
    ours, theirs = joined[rest], joined[[f"{name} shipped" for name in rest]].set_axis(rest, axis=1)
    same = (ours == theirs) | (ours.isna() & theirs.isna())
    return len(joined), int((~same.all(axis=1)).sum())


def parse_file_name(stem: str) -> tuple[str, str]:
    """Return the two systems in the order in which a file's name states them.

    >>> parse_file_name("gpt-3.5-vs-30b-flan-vicuna-generations-topp0.9-temp0.7-gpt4-reviewer")
    ('chatgpt-3.5', 'flan-33b')
    """
    for ending in FILE_ENDINGS:
        stem = stem.removesuffix(ending)
    first, _, second = stem.partition("-vs-")
    return parse_system(first), parse_system(second)


def parse_system(name: str) -> str:
    """Return a system's name from the authors' one; DataError for one that is not known."""
    match = TUNED_SYSTEM.fullmatch(name)
    if name in OTHERS:
        return OTHERS[name]
    if not match:
        raise DataError(f"{name!r} is no system of the release that is known")
    size, data = match.groups()
    return f"{data}-{SIZES.get(size, size)}b"


def infer_order(
    reviews: list[dict[str, Any]], named: tuple[str, str], ids: Mapping[str, set[str]]
) -> tuple[str, str] | None:
    """Return (first, second) as the answer ids tell it by majority; None where they tell nothing.

    Of either system the ids may be unknown, and equal texts of two systems have equal ids.
    """
    left, right = (ids.get(name, set()) for name in named)
    along = sum((r["answer1_id"] in left) + (r["answer2_id"] in right) for r in reviews)
    against = sum((r["answer1_id"] in right) + (r["answer2_id"] in left) for r in reviews)
    if along == against:
        return None
    return named if along > against else named[::-1]


def load_answer_ids(
    checkout: Path,
) -> tuple[dict[str, dict[str, set[str]]], dict[str, int], list[str]]:
    """Return benchmark -> system -> ids of its answers, each answer's length, unknown files."""
    ids: dict[str, dict[str, set[str]]] = {benchmark: defaultdict(set) for benchmark in QUESTIONS}
    lengths: dict[str, int] = {}
    unknown = []
    for benchmark, by_system in ids.items():
        for path in _list_files(checkout / GENERATIONS / benchmark):
            try:
                name = parse_system(path.stem)
            except DataError:
                unknown.append(path.name)
                continue
            for row in _read_lines(path):
                text = row.get("generation_truncated", row.get("generation", row.get("text", "")))
                identifier = row.get("answer_id") or answer_id(text)
                by_system[name].add(identifier)
                lengths[identifier] = len(text)
    return ids, lengths, unknown


def answer_id(text: str) -> str:
    """Return the id that the authors gave an answer: its UUID of version 5, in base 57.

    >>> answer_id("1, 2, 3, 4, 5")
    'nGyPgTtdFrf3LKKdnajeUX'
    """
    web = text.lower().startswith(("http://", "https://"))
    number = uuid.uuid5(uuid.NAMESPACE_URL if web else uuid.NAMESPACE_DNS, text).int
    digits = ""
    while number:
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits.rjust(22, ALPHABET[0])


def _load_questions(checkout: Path, benchmark: str) -> dict[str, dict[str, str]]:
    file, key, column = QUESTIONS[benchmark]
    rows = _read_lines(checkout / file)
    return {str(row[key]): {"category": "", "lang": "en", column: row[column]} for row in rows}


def _list_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON lines: {error}") from error


def rebuild_release(checkout: Path, out: Path) -> list[str]:
    """Write the verdicts of a checkout into a folder; return in lines what it holds."""
    imported, shipped = import_release(checkout), load_released_verdicts()
    same, differ = count_differences(imported.verdicts, shipped)
    path = out / RELEASED_VERDICTS.name
    write_verdicts(add_human_votes(imported.verdicts, shipped), path)
    lines = [
        f"{len(imported.verdicts):,} verdicts of GPT-4 from {imported.files} files",
        f"{same:,} of them are shipped too, {differ:,} otherwise than here",
    ]
    for title, names in (
        ("named in the order that was not shown", imported.misnamed),
        ("in an order that no answer id tells, taken from the name", imported.unsure),
        ("of answers of no known system, left aside", imported.unknown),
    ):
        lines.append(f"{len(names)} files {title}{':' if names else ''}")
        lines += [f"  {name}" for name in names]
    return [*lines, "human votes are those that are shipped", str(path)]
