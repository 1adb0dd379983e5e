"""What is on the page, as plain values: no markup, nothing that is computed in between."""

import base64
import io
import json
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.build import SECOND_TABLES, AnalysisOutputs, AuditOutputs, list_commands
from analysis.figures import CAPTIONS
from analysis.findings.conclusions import build_tables
from analysis.table import MISSING, Table
from qlora_repro.config.paths import ROOT
from qlora_repro.store.cell import MANIFEST
from qlora_repro.store.evidence import FILES, is_evidence
from qlora_repro.store.load import load_documents, load_origins, type_name
from qlora_repro.store.run_id import flatten_settings

UNTUNED, UNKNOWN = "-", "not known"
DPI = 110
FIGURES_OF = {  # figures that have no table of their own name
    "codebooks": "data_types",
    "error_by_blocksize": "data_types",
    "sram_quantiles": "data_types",
}
NUMBER = re.compile(r"[<\[]?\s*[+-]?\d")
CAVEAT = re.compile(r"\((uncommitted changes|limit \d+)\)")
COLOURED = ("supported", "contradicted", "not resolved", "not run", "higher", "lower", MISSING)


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
        setting = self.settings.get
        rank = f" r={setting('lora.r')}" if setting("lora.r") else ""
        commit = (self.commit or UNKNOWN)[:12]
        return {
            "run": self.digest,
            "model": str(setting("model.name")),
            "data type": type_name(str(setting("dtype.name")), bool(setting("dq"))),
            "adapters": f"{setting('lora.target', UNTUNED)}{rank}",
            "data": str(setting("data.name", UNTUNED)),
            "seed": str(setting("seed", UNTUNED)),
            "commit": commit + (" (uncommitted changes)" if self.dirty else ""),
            "device": self.device or UNKNOWN,
        }

    def text(self) -> str:
        """Return the settings, a line each."""
        return "\n".join(f"{path} = {json.dumps(value)}" for path, value in self.settings.items())

    def packages(self) -> str:
        """Return the versions in one line."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


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
class PageTable:
    """A table as the page has it."""

    title: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class PageFigure:
    """A picture, as the address that holds it, and what it shows."""

    address: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class PageSection:
    """One artifact, or one audit."""

    key: str  # its anchor
    title: str
    commands: list[str]
    tables: list[PageTable]
    figures: list[PageFigure]
    runs: list[str]  # folders
    headlines: list[str]  # its findings in short


def build_content(outputs: AnalysisOutputs, page: Path) -> dict[str, Any]:
    """Return what the template fills in.

    Args:
        outputs: What is shown.
        page: Where the page is written: manifests are linked from there.
    """
    overview, *details = build_tables(outputs.conclusions)
    artifacts = build_artifact_sections(outputs)
    runs = load_run_facts(outputs.results, {name for part in artifacts for name in part.runs})
    return {
        "overview": build_page_table(overview),
        "details": [build_page_table(table) for table in details],
        "artifacts": artifacts,
        "audits": [_audit_section(audit) for audit in outputs.audits],
        "left_out": outputs.skipped,
        "runs": runs,
        "runs_table": _runs_table(runs),
        "links": {  # the documents of packed runs are no files
            run.folder: _link(run.document, page) for run in runs if run.document.exists()
        },
        "results": _from_root(outputs.results),
        "published": sum(not run.dirty for run in runs),
    }


def load_run_facts(results: Path, folders: Collection[str]) -> list[RunFacts]:
    """Return the facts of runs and plans by their folders, in the order of their names."""
    if not folders:
        return []
    settings = load_documents("settings-*.json", results).drop_duplicates("folder")
    settings = settings.assign(name="settings-" + settings["digest"] + ".json")
    manifests = load_documents(MANIFEST, results).assign(name=MANIFEST)
    documents = pd.concat([manifests, settings]).drop_duplicates("folder").sort_values("folder")
    origins = load_origins(results)
    dirty = {run_id for (run_id, _), origin in origins.items() if origin.get("dirty")}
    packed, facts = is_evidence(results), []
    for row in documents[documents["folder"].isin(folders)].to_dict("records"):
        folder, document = str(row["folder"]), row["document"]
        provenance = document.get("provenance", {})
        facts.append(
            RunFacts(
                folder=folder,
                digest=folder.rpartition("-")[2],
                document=results / (FILES if packed else f"{folder}/{row['name']}"),
                settings=flatten_settings(document.get("decided_by", document)),
                commit=provenance.get("commit"),
                dirty=row["run_id"] in dirty,
                device=provenance.get("device"),
                versions={k: v for k, v in provenance.get("packages", {}).items() if v},
                note=document.get("model", {}).get("note"),
            )
        )
    return facts


def build_artifact_sections(outputs: AnalysisOutputs) -> list[PageSection]:
    """Return a section an artifact, in the order of the tables."""
    keys = [SECOND_TABLES.get(name, name) for name in outputs.tables]
    keys += [FIGURES_OF.get(name, name) for name in outputs.figures]
    return [_artifact_section(key, outputs) for key in dict.fromkeys(keys)]


def _artifact_section(key: str, outputs: AnalysisOutputs) -> PageSection:
    tables = [t for name, t in outputs.tables.items() if SECOND_TABLES.get(name, name) == key]
    figures = {n: f for n, f in outputs.figures.items() if FIGURES_OF.get(n, n) == key}
    commands = list_commands(key)
    commands += [f"python -m analysis tables {key}"] if tables else []
    commands += [f"python -m analysis figures {' '.join(figures)}"] if figures else []
    return PageSection(
        key=key,
        title=tables[0].title if tables else CAPTIONS[next(iter(figures))],
        commands=commands,
        tables=[build_page_table(table) for table in tables],
        figures=[embed_figure(figure, CAPTIONS[name]) for name, figure in figures.items()],
        runs=sorted({run for table in tables for run in table.runs}),
        headlines=[],
    )


def _audit_section(audit: AuditOutputs) -> PageSection:
    judged, sections = audit.judged, audit.sections.values()
    return PageSection(
        key=judged.name,
        title=f"{judged.judge} on {judged.benchmark}, {judged.protocol}",
        commands=[f"python -m analysis audit --benchmark {judged.benchmark}"],
        tables=[build_page_table(section.table()) for section in sections],
        figures=[embed_figure(fig, name.replace("_", " ")) for name, fig in audit.figures.items()],
        runs=[],
        headlines=[section.headline for section in sections if section.headline],
    )


def build_page_table(table: Table) -> PageTable:
    """Return a table for the page."""
    texts, names = table.cell_texts(), [str(column) for column in table.frame.columns]
    ours = names.index("ours") if "ours" in names else None
    return PageTable(
        title=table.title,
        columns=[
            Column(name=name, numbers=index > 0 and _are_numbers([row[index] for row in texts]))
            for index, name in enumerate(names)
        ],
        rows=[
            Row(
                cells=[Cell(text=text, kind=classify_cell(text)) for text in row],
                waits=ours is not None and row[ours] == MISSING,
            )
            for row in texts
        ],
        notes=table.notes,
    )


def _are_numbers(texts: Sequence[str]) -> bool:
    filled = [text for text in texts if text not in ("-", MISSING, "")]
    return 2 * sum(bool(NUMBER.match(text)) for text in filled) >= len(filled)


def classify_cell(text: str) -> str:
    """Return the class of a cell that the page colours: a verdict, what is missing or has a caveat.

    >>> classify_cell("not resolved (2 of 3 parts not run)"), classify_cell("34.2")
    ('not-resolved', '')
    """
    if CAVEAT.search(text):
        return "marked"
    if text in ("OOM", "failed"):
        return MISSING
    return next((word.replace(" ", "-") for word in COLOURED if text.startswith(word)), "")


def embed_figure(figure: Figure, caption: str) -> PageFigure:
    """Return a figure as an address that holds all of it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    encoded = base64.b64encode(file.getvalue()).decode()
    return PageFigure(address=f"data:image/png;base64,{encoded}", caption=caption)


def _runs_table(runs: Sequence[RunFacts]) -> PageTable:
    """Return a row a run, which leads to what is said of it."""
    table = build_page_table(Table(title="Runs", frame=pd.DataFrame([run.row() for run in runs])))
    for run, row in zip(runs, table.rows, strict=True):
        row.cells[0] = replace(row.cells[0], link=run.folder)
    return table


def _link(document: Path, page: Path) -> str:
    return Path(os.path.relpath(document.resolve(), page.resolve().parent)).as_posix()


def _from_root(path: Path) -> str:
    """Return a path as a user of the repository writes it."""
    resolved = path.resolve()
    return str(resolved.relative_to(ROOT)) if resolved.is_relative_to(ROOT) else path.name
