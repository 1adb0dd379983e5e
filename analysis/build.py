"""Everything that can be made of stored runs and of the released verdicts, in one pass."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from analysis.figures import FIGURES, draw_figure
from analysis.findings.conclusions import Conclusions, conclude_findings, write_conclusions
from analysis.judge_audit.report import Audit, audit_verdicts, write_audit
from analysis.table import Table
from analysis.tables import TABLES, build_table, learning_rates
from qlora_repro.config.paths import EXPERIMENTS
from qlora_repro.errors import StoreError

DPI = 200
SECOND_TABLES = {"data_types_by_role": "data_types"}  # further tables of one artifact


@dataclass(frozen=True, kw_only=True)
class AnalysisOutputs:
    """What was made of stored runs, and why the rest was not."""

    results: Path
    conclusions: Conclusions
    tables: dict[str, Table] = field(default_factory=dict)  # those with results of ours
    figures: dict[str, Figure] = field(default_factory=dict)
    audits: list[Audit] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # "table4_mmlu_by_dtype" -> why


def build_outputs(results: Path) -> AnalysisOutputs:
    """Build every table and figure, the verdicts and the audit; a folder need not be there."""
    conclusions = conclude_findings(results if results.is_dir() else None)
    outputs = AnalysisOutputs(results=results, conclusions=conclusions)
    for name in TABLES:
        try:
            table = build_table(name, results)
        except StoreError as error:
            outputs.skipped[name] = _reason(results, error)
            continue
        if table.has_results:
            outputs.tables[name] = table
        else:
            commands = " and ".join(list_commands(name))
            outputs.skipped[name] = f"no run in {results} has results for it; {commands} makes them"
    for name in FIGURES:
        try:
            outputs.figures[name] = draw_figure(name, results)
        except StoreError as error:
            outputs.skipped[name] = _reason(results, error)
    outputs.audits.extend(audit_verdicts(None, None))
    return outputs


def _reason(results: Path, error: StoreError) -> str:
    return str(error) if results.is_dir() else f"there are no runs in {results} yet"


def list_presets(artifact: str) -> list[str]:
    """Return the presets of an artifact: one of its name, or its two halves.

    >>> list_presets("table4_mmlu_by_dtype"), len(list_presets("table3_glue_superni_by_dtype"))
    (['table4_mmlu_by_dtype'], 2)
    """
    artifact = SECOND_TABLES.get(artifact, artifact)
    names = (artifact, f"{artifact}_a", f"{artifact}_b")
    return [name for name in names if (EXPERIMENTS / f"{name}.yaml").exists()]


def list_commands(artifact: str) -> list[str]:
    """Return the commands that make the runs behind an artifact.

    >>> list_commands("fig6_memory")
    ['python run.py experiments=fig6_memory']
    """
    if artifact == "judged_runs":
        return ["python run.py stages=[train,generate,judge] generate=procedural judge=reference"]
    if artifact == "learning_rates":
        return [f"python run.py experiments={learning_rates.PRESET}"]
    return [f"python run.py experiments={name}" for name in list_presets(artifact)]


def write_outputs(outputs: AnalysisOutputs, out: Path) -> Iterator[str]:
    """Write all of it; yield a line for each."""
    out.mkdir(parents=True, exist_ok=True)
    for name, table in outputs.tables.items():
        table.write(out, name)
        yield f"{out / name}.md, .csv, .tex"
    for name, figure in outputs.figures.items():
        figure.savefig(out / f"{name}.png", dpi=DPI)
        yield f"{out / name}.png"
    for audit in outputs.audits:
        yield write_audit(audit, out)
    write_conclusions(outputs.conclusions, out)
    yield f"{out / 'claims.md'}, .json"
