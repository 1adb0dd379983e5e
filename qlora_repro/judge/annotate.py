"""A page on which a person compares answers: python -m qlora_repro.judge.annotate RUN OPPONENT.

One HTML file that holds everything and fetches nothing. Each pair is shown once, in a random order
that the exported csv keeps; the systems are not named on the page. judge=human reads that csv.
"""

import argparse
import hashlib
import json
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qlora_repro.console import print_error, say
from qlora_repro.data.rows import read_json_lines
from qlora_repro.errors import ConfigError, DataError, QloraError
from qlora_repro.judge.matches import (
    VerdictSource,
    build_judgment,
    build_matchup,
    find_system,
)
from qlora_repro.judge.parsing import ParsedReply
from qlora_repro.page_policy import content_security_policy
from qlora_repro.records import Match
from qlora_repro.store.integrity import write_atomic

TEMPLATE = Path(__file__).with_suffix(".html")
REQUIRED_FIELDS = ("question_id", "question", "first", "second", "answer_first", "answer_second")
OPTIONAL_FIELDS = ("category", "lang", "reference")
COLUMNS = (
    "judge",
    "benchmark",
    "protocol",
    "question",
    "category",
    "lang",
    "first",
    "second",
    "verdict",
    "answer_first",
    "answer_second",
    "chars_first",
    "chars_second",
)


def build_page(matches: Sequence[Match], *, benchmark: str, seed: int) -> str:
    """Return the page: a match each, in random order and with a random side first.

    Of a pair that is given in both orders one is shown. Raises DataError where there is none.
    """
    once = {(m.question_id, *sorted((m.first, m.second))): m for m in matches}
    if not once:
        raise DataError("there is no match to compare; give two runs that answered one question")
    rng = random.Random(seed)
    shown = [_swap(match) if rng.random() < 0.5 else match for match in once.values()]
    rng.shuffle(shown)
    data: dict[str, Any] = {
        "columns": COLUMNS,
        "texts": [[m.question, m.answer_first, m.answer_second] for m in shown],
        "rows": [_vote_row(match, benchmark=benchmark) for match in shown],
    }
    data["key"] = "answers-" + hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]
    return _fill_template(TEMPLATE.read_text(encoding="utf-8"), data)


def _swap(match: Match) -> Match:
    return replace(
        match,
        first=match.second,
        second=match.first,
        answer_first=match.answer_second,
        answer_second=match.answer_first,
    )


def _vote_row(match: Match, *, benchmark: str) -> dict[str, Any]:
    """Return the columns of a vote that are known beforehand."""
    source = VerdictSource(judge="", protocol="three_class")
    vote = replace(build_judgment(match, source, ParsedReply(parse="")), benchmark=benchmark)
    return {name: getattr(vote, name) for name in COLUMNS if name not in ("judge", "verdict")}


def _fill_template(template: str, data: dict[str, Any]) -> str:
    """Put data and policy into the page; no text of a model can end its script block."""
    text = json.dumps(data, ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    parts = {"data": text, "policy": content_security_policy(template)}
    return re.sub(r"\{\{(data|policy)\}\}", lambda field: parts[field[1]], template)


def read_matches(path: Path) -> list[Match]:
    """Read a match list: json lines with the fields of Match; DataError, with the line."""
    rows = read_json_lines(
        path, subject=str(path), instead="give json lines of matches, or two runs"
    )
    return [_parse_match(row, where=where) for where, row in rows]


def _parse_match(row: Any, *, where: str) -> Match:
    missing = [name for name in REQUIRED_FIELDS if not isinstance(row, dict) or name not in row]
    if missing:
        raise DataError(f"{where} has no {missing[0]}; a match needs {', '.join(REQUIRED_FIELDS)}")
    required = {name: str(row[name]) for name in REQUIRED_FIELDS}
    return Match(**required, **{name: str(row.get(name) or "") for name in OPTIONAL_FIELDS})


def load_matches(names: Sequence[str], results: Path) -> tuple[list[Match], str]:
    """Return (matches, benchmark) of a match list, or of two systems by their names."""
    if len(names) == 1:
        return read_matches(Path(names[0])), Path(names[0]).stem
    if len(names) > 2:
        raise ConfigError(f"{len(names)} names were given; give a match list, or two runs or files")
    system, opponent = (find_system(results, name, key="RUN") for name in names)
    matchup = build_matchup(system, opponent, both_orders=False)
    return matchup.matches, matchup.benchmark


def main(arguments: Sequence[str]) -> int:
    """Write the page; return the exit code, and put what went wrong in one sentence."""
    description = (__doc__ or "").partition("\n\n")[2]
    parser = argparse.ArgumentParser(
        prog="python -m qlora_repro.judge.annotate", description=" ".join(description.split())
    )
    parser.add_argument(
        "names", nargs="+", metavar="RUN", help="two runs or files of answers; or one match list"
    )
    parser.add_argument("--results", type=Path, default=Path("outputs/results"))
    parser.add_argument("--out", type=Path, default=Path("annotate.html"))
    parser.add_argument("--seed", type=int, default=0, help="draws the orders; default: 0")
    args = parser.parse_args(arguments)
    try:
        matches, benchmark = load_matches(args.names, args.results)
        write_atomic(args.out, build_page(matches, benchmark=benchmark, seed=args.seed))
    except QloraError as error:
        print_error(str(error))
        return 1
    say(f"{args.out}: open it in a browser, vote with 1, 2 and 0, export with e; then")
    say(
        "python run.py stages=[judge] judge=human judge.votes=FILE judge.run=RUN judge.opponent=RUN"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
