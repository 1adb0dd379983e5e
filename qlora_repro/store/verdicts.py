"""Verdicts: who won which match, in the one form that judge, audit and released data share.

A verdict file is a csv with a header (UTF-8) or a parquet of the same columns, a row a verdict:

    judge           who gave it: "gpt-4", "human-1"; one judge gives one verdict on a match
    question        the question's id
    first, second   the systems, in the order in which their answers were SHOWN
    verdict         "first", "second" or "tie"; empty where the judge's reply could not be read

These must be there, but a file with both score columns needs no `verdict` column: the higher score
wins. Everything else may be left out:

    benchmark       what the questions are from; left out: the file's stem
    protocol        "score10" (two scores) or "three_class"; left out: by whether there are scores
    category, lang  of the question
    prompt          the judge's prompt: "general", "coding" or "maths"
    score_first, score_second                  points, the higher the better
    parse           "ok", "hand_filled" (a score that people filled in), "recovered:RULE" (only the
                    lenient reader found something), "unparsed", "refused" or "api_error"
    verdict_lenient, score_first_lenient, score_second_lenient
                    what a lenient reader finds; left out: what the strict one found
    answer_first, answer_second                ids of the answers: equal ids are identical texts
    chars_first, chars_second                  their length in characters

In a frame, texts that are not there are "", a missing verdict or number is NaN. Systems go by the
names of the released data, size last: "guanaco-65b", "chatgpt-3.5", "unnatural-instructions-7b".
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from qlora_repro.config.paths import RELEASED_VERDICTS
from qlora_repro.errors import DataError

COLUMNS = (
    "judge", "benchmark", "protocol", "question", "category", "lang", "prompt",
    "first", "second", "verdict", "score_first", "score_second", "parse",
    "verdict_lenient", "score_first_lenient", "score_second_lenient",
    "answer_first", "answer_second", "chars_first", "chars_second",
)  # fmt: skip
REQUIRED = ("judge", "question", "first", "second")
SCORES = ("score_first", "score_second")
LENGTHS = ("chars_first", "chars_second")
NUMBERS = (*SCORES, "score_first_lenient", "score_second_lenient", *LENGTHS)
VERDICTS = ("first", "second", "tie")
ALLOWED_VALUES = {
    "verdict": VERDICTS,
    "verdict_lenient": VERDICTS,
    "protocol": ("score10", "three_class"),
    "prompt": ("general", "coding", "maths", ""),
}
PARSES = ("ok", "hand_filled", "unparsed", "refused", "api_error")
RECOVERED = "recovered:"
MATCH = ["judge", "benchmark", "protocol", "question", "first", "second"]  # has one verdict


def verdicts_from_scores(first: pd.Series, second: pd.Series) -> pd.Series:
    """Return the verdict that two scores are: the higher wins; missing where one is missing.

    >>> high, low = pd.Series([9.0, 8, 7, None]), pd.Series([8.0, 9, 7, 5])
    >>> verdicts_from_scores(high, low).fillna("-").tolist()
    ['first', 'second', 'tie', '-']
    """
    names = np.select([first > second, first < second], ["first", "second"], "tie")
    return pd.Series(names, first.index, dtype="str").mask(first.isna() | second.isna())


def complete_columns(frame: pd.DataFrame, stem: str) -> pd.DataFrame:
    """Return all columns in order and type; those left out filled in as `verdicts` describes.

    Numbers must be readable as such, and no value is looked at otherwise.
    """
    given, full = set(frame.columns), frame.reindex(columns=list(COLUMNS))
    numbers = {name: full[name].replace("", np.nan).astype("float64") for name in NUMBERS}
    texts = {name: full[name].astype("str").fillna("") for name in COLUMNS if name not in NUMBERS}
    full = full.assign(**numbers, **texts)
    if "benchmark" not in given:
        full["benchmark"] = stem
    scored = full[list(SCORES)].notna().all(axis=1)
    if "protocol" not in given:
        full["protocol"] = np.where(set(SCORES) <= given, "score10", "three_class")
    for name in ("verdict", "verdict_lenient"):
        full[name] = full[name].mask(full[name] == "")
    full["verdict"] = full["verdict"].where(
        ~scored | full["verdict"].notna(), verdicts_from_scores(*(full[s] for s in SCORES))
    )
    for name in ("verdict", *SCORES):
        if f"{name}_lenient" not in given:
            full[f"{name}_lenient"] = full[name]
    if "parse" not in given:
        full["parse"] = np.where(full["verdict"].isna(), "unparsed", "ok")
    return full


def check_columns(columns: Sequence[str], path: Path) -> None:
    """Raise DataError for a column that there is not, one twice, one that is needed and absent."""
    for name in columns:
        if name not in COLUMNS:
            raise DataError(
                f"{path} line 1 has a column {name!r}; there may be {', '.join(COLUMNS)}"
            )
        if list(columns).count(name) > 1:
            raise DataError(f"{path} line 1 has the column {name!r} twice; keep one")
    for name in REQUIRED:
        if name not in columns:
            raise DataError(f"{path} line 1 lacks the column {name!r}")
    if "verdict" not in columns and not set(SCORES) <= set(columns):
        raise DataError(
            f"{path} line 1 lacks the column 'verdict'; it, or both score_first and score_second, "
            "must be there"
        )


def check_verdicts(frame: pd.DataFrame, path: Path, *, lines: Sequence[int]) -> pd.DataFrame:
    """Return the completed frame; DataError for the first row that is no verdict.

    `lines` says where in the file each row stands.
    """

    def refuse(wrong: pd.Series, column: str, why: str) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            value = frame[column].iloc[row]
            raise DataError(f"{path} line {lines[row]}: {column} is {value!r}{why}")

    for name in set(NUMBERS) & set(frame.columns):
        empty = frame[name].isna() | (frame[name].astype("str") == "")
        number = pd.to_numeric(frame[name], errors="coerce")
        refuse(~empty & ~np.isfinite(number), name, ", which is no number")
    full = complete_columns(frame, path.stem)
    for name in REQUIRED:
        refuse(full[name] == "", name, "; every verdict needs one")
    for name in set(ALLOWED_VALUES) & set(frame.columns):
        known = full[name].isin(ALLOWED_VALUES[name]) | full[name].isna()
        choices = ", ".join(value or "empty" for value in ALLOWED_VALUES[name])
        refuse(~known, name, f"; it may be {choices}")
    if "parse" in frame.columns:
        known = full["parse"].isin(PARSES) | full["parse"].str.match(f"{RECOVERED}.")
        refuse(~known, "parse", f"; it may be {', '.join(PARSES)} or {RECOVERED}RULE")
    refuse(full["first"] == full["second"], "second", ", which is first as well")
    scored = verdicts_from_scores(*(full[name] for name in SCORES))
    if "verdict" in frame.columns:
        contradicted = scored.notna() & (full["verdict"] != scored)
        refuse(contradicted, "verdict", ", and the scores say otherwise")
    twice = full.duplicated(MATCH)
    refuse(twice, "judge", ", who has judged this match before; name each judge of it")
    return full


def load_released_verdicts() -> pd.DataFrame:
    """Return the paper's released verdicts: GPT-4's and the human ones (Section 5.3).

    56,986 rows: GPT-4 on Vicuna pairwise 4,480, scored against ChatGPT 5,760, on OA 40,026, and
    6,720 human votes. "human-1" to "human-3" are a comparison's first to third vote, not persons.
    Raises DataError when the file is not there.
    """
    if not RELEASED_VERDICTS.exists():
        raise DataError(
            f"{RELEASED_VERDICTS} is not there; restore it from git, or rebuild it with "
            "python -m analysis import-release CHECKOUT"
        )
    return complete_columns(pd.read_parquet(RELEASED_VERDICTS), RELEASED_VERDICTS.stem)


def read_verdicts(path: str | Path) -> pd.DataFrame:
    """Read and check a verdict file; a frame with all of COLUMNS, in their order.

    Raises DataError, with file and line, for a file that is not one.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file; name a csv or parquet of verdicts")
    frame, lines = _from_parquet(path) if path.suffix == ".parquet" else _from_csv(path)
    check_columns(list(frame.columns), path)
    if frame.empty:
        raise DataError(f"{path} has no verdicts; it needs a line for each below its header")
    return check_verdicts(frame, path, lines=lines)


def write_verdicts(frame: pd.DataFrame, path: Path) -> None:
    """Write verdicts as csv or, where the path ends in .parquet, compactly."""
    ordered = frame.loc[:, list(COLUMNS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".parquet":
        ordered.to_csv(path, index=False)
        return
    kinds = {name: "float32" if name in NUMBERS else "category" for name in COLUMNS}
    packed = ordered.astype(kinds)
    packed.to_parquet(path, index=False, compression="zstd", compression_level=19)


def _from_csv(path: Path) -> tuple[pd.DataFrame, list[int]]:
    """Return the cells as texts, and the line of each row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            rows = [(reader.line_num, row) for row in reader if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no csv in UTF-8: {error}") from error
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path} line {line} has {len(row)} cells, its header {len(header)}")
    cells = [row for _, row in rows]
    return pd.DataFrame(cells, columns=header, dtype="str"), [line for line, _ in rows]


def _from_parquet(path: Path) -> tuple[pd.DataFrame, list[int]]:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # what pyarrow raises is a ValueError too
        raise DataError(f"{path} is no parquet: {str(error).splitlines()[0]}") from error
    return frame.reset_index(drop=True), list(range(1, len(frame) + 1))
