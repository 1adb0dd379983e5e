"""What the report's page says, as plain values: no markup, nothing that is computed in between."""

import base64
import inspect
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.claims import command as claims
from analysis.figures import FIGURES
from analysis.page.runs import RunFacts, behind
from analysis.rebuild import MORE_OF, ROOT, Audited, Rebuilt, commands
from analysis.table import MISSING, Table

DPI = 110
BESIDE = {  # figures that have no table of their own name
    "codebooks": "data_types",
    "error_by_blocksize": "data_types",
    "sram_quantiles": "data_types",
}
NUMBER = re.compile(r"[<\[]?\s*[+-]?\d")
WORDS = ("supported", "contradicted", "not resolved", "not run", "higher", "lower", MISSING)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell's text, the class that colours it ("" for most), and the anchor that it leads to."""

    text: str
    kind: str
    link: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row; one that waits for its runs is folded away at first."""

    cells: list[Cell]
    waits: bool


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column's name; numbers stand on the right."""

    name: str
    numbers: bool


@dataclass(frozen=True, kw_only=True)
class ShownTable:
    """A table as the page has it."""

    title: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class ShownFigure:
    """A picture, as the address that holds it, and what it shows."""

    address: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """One artifact, or one audit."""

    key: str  # its anchor
    title: str
    commands: list[str]
    tables: list[ShownTable]
    figures: list[ShownFigure]
    runs: list[str]  # folders
    said: list[str]  # its findings in short, a line each


def content(made: Rebuilt, out: Path) -> dict[str, Any]:
    """Return what the template fills in; `out` is the page, from which manifests are linked."""
    overview, *details = claims.tables(made.verdicts)
    parts = artifacts(made)
    names = sorted({name for part in parts for name in part.runs})
    runs = behind(made.results, names)
    return {
        "overview": shown(overview),
        "details": [shown(table) for table in details],
        "artifacts": parts,
        "audits": [_audit(audited) for audited in made.audits],
        "left_out": made.left_out,
        "runs": runs,
        "runs_table": _runs_table(runs),
        "links": {run.folder: _link(run, out) for run in runs},
        "results": _from_root(made.results),
        "published": sum(not run.dirty for run in runs),
    }


def artifacts(made: Rebuilt) -> list[Part]:
    """Return a part an artifact, in the order of the tables."""
    keys = [MORE_OF.get(name, name) for name in made.tables]
    keys += [BESIDE.get(name, name) for name in made.figures]
    return [_artifact(key, made) for key in dict.fromkeys(keys)]


def _artifact(key: str, made: Rebuilt) -> Part:
    tables = [t for name, t in made.tables.items() if MORE_OF.get(name, name) == key]
    drawn = {name: f for name, f in made.figures.items() if BESIDE.get(name, name) == key}
    made_by = commands(key)
    made_by += [f"python -m analysis tables {key}"] if tables else []
    made_by += [f"python -m analysis figures {' '.join(drawn)}"] if drawn else []
    return Part(
        key=key,
        title=tables[0].title if tables else _about(next(iter(drawn))),
        commands=made_by,
        tables=[shown(table) for table in tables],
        figures=[picture(figure, _about(name)) for name, figure in drawn.items()],
        runs=sorted({run for table in tables for run in table.runs}),
        said=[],
    )


def _about(figure: str) -> str:
    """Return what a figure's module says of it, in one sentence."""
    told = inspect.getdoc(inspect.getmodule(FIGURES[figure])) or figure
    return told.partition("\n")[0]


def _audit(audited: Audited) -> Part:
    material, sections = audited.material, audited.sections
    return Part(
        key=material.name,
        title=f"{material.judge} on {material.benchmark}, {material.protocol}",
        commands=[f"python -m analysis audit --benchmark {material.benchmark}"],
        tables=[shown(section.table()) for section in sections.values()],
        figures=[
            picture(figure, name.replace("_", " ")) for name, figure in audited.figures.items()
        ],
        runs=[],
        said=[section.headline for section in sections.values() if section.headline],
    )


def shown(table: Table) -> ShownTable:
    """Return a table for the page."""
    texts, names = table.texts(), [str(column) for column in table.frame.columns]
    ours = names.index("ours") if "ours" in names else None
    return ShownTable(
        title=table.title,
        columns=[
            Column(name=name, numbers=at > 0 and _numbers([row[at] for row in texts]))
            for at, name in enumerate(names)
        ],
        rows=[
            Row(
                cells=[Cell(text=text, kind=kind(text)) for text in row],
                waits=ours is not None and row[ours] == MISSING,
            )
            for row in texts
        ],
        notes=table.notes,
    )


def _numbers(texts: list[str]) -> bool:
    filled = [text for text in texts if text not in ("-", MISSING, "")]
    return 2 * sum(bool(NUMBER.match(text)) for text in filled) >= len(filled)


def kind(text: str) -> str:
    """Return the class of a cell whose word is looked for: a verdict, what is missing or marked.

    >>> kind("not resolved (2 of 3 parts not run)"), kind("34.2"), kind("OOM")
    ('not-resolved', '', 'missing')
    """
    if re.search(r"\((uncommitted changes|limit \d+)\)", text):
        return "marked"
    if text in ("OOM", "failed"):
        return MISSING
    return next((word.replace(" ", "-") for word in WORDS if text.startswith(word)), "")


def picture(figure: Figure, caption: str) -> ShownFigure:
    """Return a figure as an address that holds all of it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    held = base64.b64encode(file.getvalue()).decode()
    return ShownFigure(address=f"data:image/png;base64,{held}", caption=caption)


def _runs_table(runs: Sequence[RunFacts]) -> ShownTable:
    """Return a row a run, which leads to what is said of it."""
    table = shown(Table(title="Runs", frame=pd.DataFrame([run.row() for run in runs])))
    for run, row in zip(runs, table.rows, strict=True):
        row.cells[0] = replace(row.cells[0], link=run.folder)
    return table


def _link(run: RunFacts, out: Path) -> str:
    return Path(os.path.relpath(run.document.resolve(), out.resolve().parent)).as_posix()


def _from_root(path: Path) -> str:
    """Return a path as a user of the repository writes it."""
    resolved = path.resolve()
    return str(resolved.relative_to(ROOT)) if resolved.is_relative_to(ROOT) else path.name
