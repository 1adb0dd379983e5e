"""The runs behind a table: what decided each, and where it comes from.

What the report's page says, as plain values: no markup, nothing that is computed in between.
"""

import base64
import inspect
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.artifacts.grouping import flat
from analysis.build import MORE_OF, Audited, Rebuilt, commands
from analysis.figures import FIGURES
from analysis.findings import report as claims
from analysis.table import MISSING, Table
from qlora_repro.config.paths import ROOT
from qlora_repro.store.load import MANIFEST, type_name
from qlora_repro.store.runs import read_document

UNTUNED = "-"


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run as the page shows it."""

    folder: str
    digest: str  # of the settings that decided it
    document: Path  # its manifest; of a plan, its settings
    settings: dict[str, Any]  # by dotted path
    commit: str | None
    dirty: bool  # the code of some stage had uncommitted changes
    device: str | None
    versions: dict[str, str]
    note: str | None

    def row(self) -> dict[str, str]:
        """Return the line of the table of runs."""
        at = self.settings.get
        r = f" r={at('lora.r')}" if at("lora.r") else ""
        return {
            "run": self.digest,
            "model": str(at("model.name")),
            "data type": type_name(str(at("dtype.name")), bool(at("dq"))),
            "adapters": f"{at('lora.target', UNTUNED)}{r}",
            "data": str(at("data.name", UNTUNED)),
            "seed": str(at("seed", UNTUNED)),
            "commit": (self.commit or "not known")[:12]
            + (" (uncommitted changes)" if self.dirty else ""),
            "device": self.device or "not known",
        }

    def text(self) -> str:
        """Return the settings, a line each."""
        return "\n".join(f"{path} = {json.dumps(value)}" for path, value in self.settings.items())

    def packages(self) -> str:
        """Return the versions in one line."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


def behind(results: Path, folders: Iterable[str]) -> list[RunFacts]:
    """Return the facts of runs by their folders; one without a document is left out."""
    found = (_facts(results / name) for name in folders)
    return [facts for facts in found if facts is not None]


def _facts(folder: Path) -> RunFacts | None:
    manifest = folder / MANIFEST
    documents = [manifest] if manifest.exists() else sorted(folder.glob("settings-*.json"))
    if not documents:
        return None
    document = read_document(documents[0])
    about = document.get("provenance", {})
    packages = about.get("packages", {})
    return RunFacts(
        folder=folder.name,
        digest=folder.name.rpartition("-")[2],
        document=documents[0],
        settings=flat(document.get("decided_by", document)),
        commit=about.get("commit"),
        dirty=any(bool(part.get("dirty")) for part in (about, *_stages(folder))),
        device=about.get("device"),
        versions={name: version for name, version in packages.items() if version},
        note=document.get("model", {}).get("note"),
    )


def _stages(folder: Path) -> list[dict[str, Any]]:
    """Return how each stage of a run came about."""
    return [read_document(path) for path in sorted(folder.glob("origin-*.json"))]


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
