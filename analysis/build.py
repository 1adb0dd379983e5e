"""Everything that can be made of a results folder and of the released verdicts, in one pass."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from analysis.figures import FIGURES
from analysis.findings import report as claims
from analysis.findings.report import Decided
from analysis.judge_audit import figures as audit_figures
from analysis.judge_audit.counted_verdicts import Material, Section
from analysis.judge_audit.report import RELEASED, examined
from analysis.judge_audit.report import write as write_audit
from analysis.table import Table
from analysis.tables import TABLES, learning_rates
from qlora_repro.config.paths import EXPERIMENTS
from qlora_repro.errors import StoreError

DPI = 200
MORE_OF = {"data_types_by_role": "data_types"}  # a second table of one artifact


@dataclass(frozen=True, kw_only=True)
class Audited:
    """One judge's verdicts on one benchmark, with what they show."""

    material: Material
    sections: dict[str, Section]
    figures: dict[str, Figure]


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """What was made, and why the rest was not."""

    results: Path
    verdicts: Decided
    tables: dict[str, Table] = field(default_factory=dict)  # with results of ours
    figures: dict[str, Figure] = field(default_factory=dict)
    audits: list[Audited] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # "table4_mmlu_by_dtype" -> why


def rebuild(results: Path) -> Rebuilt:
    """Build every table and figure, the verdicts and the audit; a folder need not be there."""
    made = Rebuilt(results=results, verdicts=claims.decided(results if results.is_dir() else None))
    for name, build in TABLES.items():
        try:
            table = build(results)
        except StoreError as error:
            made.left_out[name] = _nothing(results, error)
            continue
        if table.measured:
            made.tables[name] = table
        else:
            makes = " and ".join(commands(name))
            made.left_out[name] = f"no run in {results} has results for it; {makes} makes them"
    for name, draw in FIGURES.items():
        try:
            made.figures[name] = draw(results)
        except StoreError as error:
            made.left_out[name] = _nothing(results, error)
    for material, sections in examined(None, None):
        drawn = dict(audit_figures.figures(material, sections))
        made.audits.append(Audited(material=material, sections=sections, figures=drawn))
    return made


def _nothing(results: Path, error: StoreError) -> str:
    return str(error) if results.is_dir() else f"there are no runs in {results} yet"


def presets(stem: str) -> list[str]:
    """Return the presets of an artifact: one of its name, or its two halves.

    >>> presets("table4_mmlu_by_dtype"), len(presets("table3_glue_superni_by_dtype"))
    (['table4_mmlu_by_dtype'], 2)
    """
    stem = MORE_OF.get(stem, stem)
    there = {path.stem for path in EXPERIMENTS.glob(f"{stem}*.yaml")}
    return [name for name in (stem, f"{stem}_a", f"{stem}_b") if name in there]


def commands(stem: str) -> list[str]:
    """Return the commands that make the runs behind an artifact.

    >>> commands("fig6_memory")
    ['python run.py experiments=fig6_memory']
    """
    if stem == "judged_runs":
        return ["python run.py stages=[train,generate,judge] generate=procedural judge=reference"]
    if stem == "learning_rates":
        return [f"python run.py experiments={learning_rates.PRESET}"]
    return [f"python run.py experiments={name}" for name in presets(stem)]


def write(made: Rebuilt, out: Path) -> Iterator[str]:
    """Write all of it; yield a line for each."""
    out.mkdir(parents=True, exist_ok=True)
    for name, table in made.tables.items():
        table.write(out, name)
        yield f"{out / name}.md, .csv, .tex"
    for name, figure in made.figures.items():
        figure.savefig(out / f"{name}.png", dpi=DPI)
        yield f"{out / name}.png"
    for audited in made.audits:
        write_audit(audited.material, audited.sections, source=RELEASED, out=out)
        for name, figure in audited.figures.items():
            figure.savefig(out / f"{audited.material.name}_{name}.png", dpi=DPI)
        yield f"{out / audited.material.name}.md, .json and {len(audited.figures)} figures"
    claims.write(made.verdicts, out)
    yield f"{out / 'claims.md'}, .json"
