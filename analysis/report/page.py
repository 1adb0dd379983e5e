"""What is on the page, as plain values, and the page from its template: everything escaped."""

import base64
import io
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from analysis.build import SECOND_TABLES, AnalysisOutputs, list_commands
from analysis.figures import CAPTIONS, OF_DATA_TYPES
from analysis.findings.conclusions import build_tables
from analysis.judge_audit.report import Audit
from analysis.table import MISSING, Table
from qlora_repro.config.paths import ROOT
from qlora_repro.page_policy import content_security_policy
from qlora_repro.store.cell import MANIFEST
from qlora_repro.store.evidence import FILES, is_evidence
from qlora_repro.store.integrity import write_atomic
from qlora_repro.store.load import load_documents, load_origins, type_name
from qlora_repro.store.run_id import flatten_settings

FOLDER = Path(__file__).parent
PARTS = {"/* report.css */": "report.css", "// report.js": "report.js"}  # where the page has them
UNTUNED, UNKNOWN = "-", "not known"
DPI = 110
FIGURES_OF = dict.fromkeys(OF_DATA_TYPES, "data_types")  # what has no table of its own name
NUMBER = re.compile(r"[<\[]?\s*[+-]?\d")
CAVEAT = re.compile(r"\((uncommitted changes|limit \d+)\)")
COLOURED = ("supported", "contradicted", "not resolved", "not run", "higher", "lower", MISSING)


@dataclass(frozen=True, kw_only=True)
class PageSection:
    """One artifact, or one audit."""

    key: str  # its anchor
    title: str
    commands: list[str]
    tables: list[Table]
    figures: list[tuple[str, str]]  # the address that holds a picture, and what it shows
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
        "overview": overview,
        "details": details,
        "artifacts": artifacts,
        "audits": [_audit_section(audit) for audit in outputs.audits],
        "left_out": outputs.skipped,
        "runs": runs,
        "runs_table": Table(title="Runs", frame=pd.DataFrame([run["row"] for run in runs])),
        "links": {  # the documents of packed runs are no files
            run["folder"]: _link(run["document"], page) for run in runs if run["document"].exists()
        },
        "results": _from_root(outputs.results),
        "published": sum(not run["dirty"] for run in runs),
    }


def load_run_facts(results: Path, folders: Collection[str]) -> list[dict[str, Any]]:
    """Return what the page says of runs and plans by their folders, in the order of their names.

    `row` is a run's line of the table of runs, `document` its manifest, or a plan's settings.
    """
    if not folders:
        return []
    settings = load_documents("settings-*.json", results).drop_duplicates("folder")
    settings = settings.assign(name="settings-" + settings["digest"] + ".json")
    manifests = load_documents(MANIFEST, results).assign(name=MANIFEST)
    documents = pd.concat([manifests, settings]).drop_duplicates("folder").sort_values("folder")
    origins = load_origins(results)
    dirty = {run_id for (run_id, _), origin in origins.items() if origin.get("dirty")}
    packed = is_evidence(results)
    facts: list[dict[str, Any]] = []
    for row in documents[documents["folder"].isin(folders)].to_dict("records"):
        folder, document = str(row["folder"]), dict(row["document"])
        provenance = document.get("provenance", {})
        flat = flatten_settings(document.get("decided_by", document))
        versions = {k: v for k, v in provenance.get("packages", {}).items() if v}
        facts.append(
            {
                "folder": folder,
                "row": {
                    "run": folder.rpartition("-")[2],
                    **_describe_run(flat, provenance, dirty=row["run_id"] in dirty),
                },
                "document": results / (FILES if packed else f"{folder}/{row['name']}"),
                "dirty": row["run_id"] in dirty,
                "settings": [f"{path} = {json.dumps(value)}" for path, value in flat.items()],
                "packages": [f"{name} {version}" for name, version in versions.items()],
                "note": document.get("model", {}).get("note"),
            }
        )
    return facts


def _describe_run(
    settings: Mapping[str, Any], provenance: Mapping[str, Any], *, dirty: bool
) -> dict[str, str]:
    rank = f" r={settings['lora.r']}" if settings.get("lora.r") else ""
    commit = str(provenance.get("commit") or UNKNOWN)[:12]
    return {
        "model": str(settings.get("model.name")),
        "data type": type_name(str(settings.get("dtype.name")), bool(settings.get("dq"))),
        "adapters": f"{settings.get('lora.target', UNTUNED)}{rank}",
        "data": str(settings.get("data.name", UNTUNED)),
        "seed": str(settings.get("seed", UNTUNED)),
        "commit": commit + (" (uncommitted changes)" if dirty else ""),
        "device": provenance.get("device") or UNKNOWN,
    }


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
        tables=tables,
        figures=[embed_figure(figure, CAPTIONS[name]) for name, figure in figures.items()],
        runs=sorted({run for table in tables for run in table.runs}),
        headlines=[],
    )


def _audit_section(audit: Audit) -> PageSection:
    judged, sections = audit.judged, audit.sections.values()
    return PageSection(
        key=judged.name,
        title=f"{judged.judge} on {judged.benchmark}, {judged.protocol}",
        commands=[f"python -m analysis audit --benchmark {judged.benchmark}"],
        tables=list(sections),
        figures=[embed_figure(fig, name.replace("_", " ")) for name, fig in audit.figures.items()],
        runs=[],
        headlines=[section.headline for section in sections if section.headline],
    )


def find_number_columns(table: Table) -> list[bool]:
    """Return which columns are of numbers, which stand on the right; the first never is."""
    rows = table.cell_texts()
    columns = [[row[index] for row in rows] for index in range(len(table.heads))]
    filled = [[text for text in texts if text not in ("-", MISSING, "")] for texts in columns]
    shares = [2 * sum(bool(NUMBER.match(text)) for text in texts) >= len(texts) for texts in filled]
    return [False, *shares[1:]]


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


def embed_figure(figure: Figure, caption: str) -> tuple[str, str]:
    """Return a figure as an address that holds all of it, and its caption."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    encoded = base64.b64encode(file.getvalue()).decode()
    return f"data:image/png;base64,{encoded}", caption


def _link(document: Path, page: Path) -> str:
    return Path(os.path.relpath(document.resolve(), page.resolve().parent)).as_posix()


def _from_root(path: Path) -> str:
    """Return a path as a user of the repository writes it."""
    resolved = path.resolve()
    return str(resolved.relative_to(ROOT)) if resolved.is_relative_to(ROOT) else path.name


def render_page(content: dict[str, Any]) -> str:
    """Return the page; no text of a run can be read as markup."""
    source = (FOLDER / "report.html").read_text(encoding="utf-8")
    for mark, name in PARTS.items():
        source = source.replace(f"{mark}\n", (FOLDER / name).read_text(encoding="utf-8"))
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell_class": classify_cell, "number_columns": find_number_columns}
    policy = content_security_policy(source, pictures=True)
    return environment.from_string(source).render(**content, policy=policy)


def write_page(outputs: AnalysisOutputs, out: Path) -> None:
    """Write the page."""
    write_atomic(out, render_page(build_content(outputs, out)))
