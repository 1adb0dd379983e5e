"""The lines of an artifact as a table: paper, ours, difference, n, interval, noise, verdict."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.artifacts.effects import Effect
from analysis.artifacts.grouping import failures
from analysis.artifacts.lines import NOT_PRINTED, Cells, Line, lines_of, margin, paper_effect
from analysis.artifacts.spec import MARGINS, Artifact, Key
from analysis.findings.runs import Run, load
from analysis.paper_tables import errata, signed
from analysis.table import Table

COLUMNS = (
    *("paper", "ours", "difference", "95% interval", "n", "seeds"),
    *("effect, paper", "effect, ours", "noise", "verdict"),
)


def build(artifact: Artifact, root: Path) -> Table:
    """Return the table of an artifact: every printed cell, then what stands in or is beside it."""
    paper = artifact.paper()
    runs = load(root)
    lines = list(lines_of(artifact, paper, runs))
    own = {line.key: line for line in lines if line.theirs}
    failed = _failed(artifact, root)
    rows = []
    for key in paper:
        line = own.get(key) or margin(artifact, key, paper, own)
        rows.append(_shown(line) if line else _missing(artifact, key, paper, failed.get(key)))
    rows += [_shown(line) for line in lines if line.key not in paper or not line.theirs]
    named = [_renamed(row, artifact.heads) for row in rows]
    return Table(
        title=artifact.title,
        frame=pd.DataFrame(named, columns=[*artifact.heads, *COLUMNS]),
        notes=[*_counted(artifact, paper, own, failed), *_notes(artifact, lines, runs)],
        runs=tuple(sorted({name for line in lines for name in line.runs})),
    )


def _shown(line: Line) -> dict[str, str | None]:
    digits, at = line.digits, line.level
    found = line.effect
    return {
        "row": line.key[0],
        "column": line.label,
        "paper": NOT_PRINTED if line.paper is None else f"{line.paper:.{digits}f}",
        "ours": " ".join([f"{at.value:.{digits}f}", *(f"({mark})" for mark in line.marks)]),
        "difference": NOT_PRINTED if line.paper is None else signed(at.value - line.paper, digits),
        "95% interval": _span(at.interval, digits),
        "n": f"{at.n:,}",
        "seeds": line.seeds,
        "effect, paper": _signed(line.printed_effect, digits),
        "effect, ours": found if isinstance(found, str) else _effect(found, digits),
        "noise": "not known" if line.floor is None else f"{line.floor:.{digits}f}",
        "verdict": NOT_PRINTED if isinstance(found, str) else found.verdict,
    }


def _missing(
    artifact: Artifact, key: Key, paper: Cells, state: str | None
) -> dict[str, str | None]:
    row, column = key
    known = {
        "row": row,
        "column": column,
        "paper": f"{paper[key]:.{artifact.digits}f}",
        "ours": state,
        "effect, paper": _signed(paper_effect(artifact, paper, row, column), artifact.digits),
    }
    return dict.fromkeys(COLUMNS, NOT_PRINTED) | known


def _span(interval: tuple[float, float] | None, digits: int) -> str:
    if interval is None:
        return NOT_PRINTED
    low, high = interval
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def _effect(found: Effect, digits: int) -> str:
    low, high = (signed(end, digits) for end in found.found.interval())
    return f"{signed(found.found.effect, digits)} [{low}, {high}]"


def _signed(value: float | None, digits: int) -> str:
    return NOT_PRINTED if value is None else signed(value, digits)


def _renamed(row: dict[str, str | None], heads: Key) -> dict[str, str | None]:
    return {heads[0]: row.pop("row"), heads[1]: row.pop("column"), **row}


def _failed(artifact: Artifact, root: Path) -> dict[Key, str]:
    return {
        (place.row, place.column): state
        for run, state in failures(root)
        if run.model in artifact.models
        for place in artifact.places(run)
    }


def _counted(
    artifact: Artifact, paper: Cells, own: Mapping[Key, Line], failed: Mapping[Key, str]
) -> list[str]:
    inner = [key for key in paper if not {*key} & {*MARGINS} and key[1] not in artifact.parts]
    there = sum(key in own for key in inner)
    lost = sum(key in failed and key not in own for key in inner)
    said = f"{there} of the paper's {len(inner)} cells have runs here"
    said += f", {lost} failed" if lost else ""
    commands = " and ".join(f"python run.py experiments={preset}" for preset in artifact.presets)
    return [said + (f"; for the others: {commands}" if there < len(inner) else "")]


def _notes(artifact: Artifact, lines: Sequence[Line], runs: Iterable[Run]) -> list[str]:
    said = list(artifact.notes)
    if lines:
        said += [
            "interval: 95%, over questions, and seeds where several trained, Wilson's for right "
            "answers of one; n: questions, or windows of a text",
            "effect: from the base row, on the same questions and seeds; noise: the 95% range of a "
            "difference between repeats with other seeds; an effect within it is not resolved",
        ]
    others = {line.model for line in lines if not line.theirs}
    if others:
        said.append(
            "stand-in: another model or benchmark than the paper's, so that levels do not compare; "
            "its effect stands beside the mean of the paper's over columns"
        )
        notes = {f"{run.model}: {run.note}" for run in runs if run.note and run.model in others}
        said += sorted(notes)
    unscored = sum(line.level.unscored for line in lines)
    said += [f"{unscored:,} answers have no score and are left out"] if unscored else []
    return [*said, *errata(artifact.stem)]
