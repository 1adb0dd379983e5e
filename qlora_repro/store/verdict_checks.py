"""What makes a table one of verdicts: its columns, what stands for those left out, its checks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from qlora_repro.errors import DataError

COLUMNS = (
    *("judge", "benchmark", "protocol", "question", "category", "lang", "prompt"),
    *("first", "second", "verdict", "score_first", "score_second", "parse"),
    *("verdict_lenient", "score_first_lenient", "score_second_lenient"),
    *("answer_first", "answer_second", "chars_first", "chars_second"),
)
REQUIRED = ("judge", "question", "first", "second")
SCORES = ("score_first", "score_second")
LENGTHS = ("chars_first", "chars_second")
NUMBERS = (*SCORES, "score_first_lenient", "score_second_lenient", *LENGTHS)
VERDICTS = ("first", "second", "tie")
WORDS = {
    "verdict": VERDICTS,
    "verdict_lenient": VERDICTS,
    "protocol": ("score10", "three_class"),
    "prompt": ("general", "coding", "maths", ""),
}
PARSES = ("ok", "hand_filled", "unparsed", "refused", "api_error")
RECOVERED = "recovered:"
MATCH = ["judge", "benchmark", "protocol", "question", "first", "second"]  # has one verdict


def by_scores(first: pd.Series, second: pd.Series) -> pd.Series:
    """Return the verdict that two scores are: the higher wins; missing where one is missing.

    >>> high, low = pd.Series([9.0, 8, 7, None]), pd.Series([8.0, 9, 7, 5])
    >>> by_scores(high, low).fillna("-").tolist()
    ['first', 'second', 'tie', '-']
    """
    words = np.select([first > second, first < second], ["first", "second"], "tie")
    return pd.Series(words, first.index, dtype="str").mask(first.isna() | second.isna())


def complete(frame: pd.DataFrame, stem: str) -> pd.DataFrame:
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
    for word in ("verdict", "verdict_lenient"):
        full[word] = full[word].mask(full[word] == "")
    full["verdict"] = full["verdict"].where(
        ~scored | full["verdict"].notna(), by_scores(*(full[s] for s in SCORES))
    )
    for name in ("verdict", *SCORES):
        if f"{name}_lenient" not in given:
            full[f"{name}_lenient"] = full[name]
    if "parse" not in given:
        full["parse"] = np.where(full["verdict"].isna(), "unparsed", "ok")
    return full


def refuse_columns(columns: Sequence[str], path: Path) -> None:
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


def check(frame: pd.DataFrame, path: Path, *, lines: Sequence[int]) -> pd.DataFrame:
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
    full = complete(frame, path.stem)
    for name in REQUIRED:
        refuse(full[name] == "", name, "; every verdict needs one")
    for name in set(WORDS) & set(frame.columns):
        known = full[name].isin(WORDS[name]) | full[name].isna()
        refuse(~known, name, f"; it may be {', '.join(word or 'empty' for word in WORDS[name])}")
    if "parse" in frame.columns:
        known = full["parse"].isin(PARSES) | full["parse"].str.match(f"{RECOVERED}.")
        refuse(~known, "parse", f"; it may be {', '.join(PARSES)} or {RECOVERED}RULE")
    refuse(full["first"] == full["second"], "second", ", which is first as well")
    said, counted = full["verdict"], by_scores(*(full[name] for name in SCORES))
    if "verdict" in frame.columns:
        refuse(counted.notna() & (said != counted), "verdict", ", and the scores say otherwise")
    twice = full.duplicated(MATCH)
    refuse(twice, "judge", ", who has judged this match before; name each judge of it")
    return full
