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
from pathlib import Path

import pandas as pd

from qlora_repro.errors import DataError
from qlora_repro.store.verdict_checks import COLUMNS, NUMBERS, check, complete, refuse_columns

RELEASED = Path(__file__).parents[2] / "analysis" / "paper" / "released_verdicts.parquet"


def released() -> pd.DataFrame:
    """Return the paper's released verdicts: GPT-4's and the human ones (Section 5.3).

    56,986 rows: GPT-4 on Vicuna pairwise 4,480, scored against ChatGPT 5,760, on OA 40,026, and
    6,720 human votes. "human-1" to "human-3" are a comparison's first to third vote, not persons.
    Raises DataError when the file is not there.
    """
    if not RELEASED.exists():
        raise DataError(
            f"{RELEASED} is not there; restore it from git, or rebuild it with "
            "python -m analysis import-release CHECKOUT"
        )
    return complete(pd.read_parquet(RELEASED), RELEASED.stem)


def read_verdicts(path: str | Path) -> pd.DataFrame:
    """Read and check a verdict file; a frame with all of COLUMNS, in their order.

    Raises DataError, with file and line, for a file that is not one.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file; name a csv or parquet of verdicts")
    frame, lines = _from_parquet(path) if path.suffix == ".parquet" else _from_csv(path)
    refuse_columns(list(frame.columns), path)
    if frame.empty:
        raise DataError(f"{path} has no verdicts; it needs a line for each below its header")
    return check(frame, path, lines=lines)


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
