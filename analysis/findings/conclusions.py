"""From the evidence on the seven findings to a conclusion on each, as tables and as json.

All comparisons of a finding must support it; p-values are corrected over the seven (Holm).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.artifacts.runs import load_evaluated_runs
from analysis.findings import (
    finding_1_precision,
    finding_2_data_types,
    finding_3_memory_budget,
    finding_4_data,
    finding_5_judge,
    finding_6_benchmarks,
    finding_7_placement,
)
from analysis.findings.evidence import Criteria, Evidence, load_criteria
from analysis.table import Table
from qlora_repro.console import say
from qlora_repro.stats.hypothesis_tests import (
    Comparison,
    MissingComparison,
    Part,
    adjust_holm,
)
from qlora_repro.store.integrity import write_atomic
from qlora_repro.store.load import load_judgments
from qlora_repro.store.verdicts import load_released_verdicts

FINDINGS = (
    finding_1_precision,
    finding_2_data_types,
    finding_3_memory_budget,
    finding_4_data,
    finding_5_judge,
    finding_6_benchmarks,
    finding_7_placement,
)
SOURCES = {"paper": "the paper", "ours": "our runs"}
NOT_KNOWN = "-"
LEGEND = (
    "effect: its 95% interval in brackets; n: units, and seeds where anything trained",
    "noise: the 95% range of the same difference between repeated runs; one within it is not "
    "resolved",
    "detectable: the effect at which the finding would be found with the power asked, by Holm's "
    "strictest step and with all its parts; of a test of equality, the smallest margin it could "
    "show",
    "alone: what a part shows by itself at 5%; a finding needs all its parts, after Holm",
)


class Outcome(StrEnum):
    """What evidence says of a finding, or a comparison of what it is to show."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    NOT_RESOLVED = "not resolved"
    NOT_RUN = "not run"


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """One finding, from one source."""

    evidence: Evidence
    outcome: Outcome
    p_for: float  # after Holm
    p_against: float


Conclusions = dict[str, list[Conclusion]]  # by source: "paper", "ours"


def report_findings(results: Path | None, out: Path) -> Conclusions:
    """Print and write the conclusions of both sources.

    Args:
        results: A results folder, or packed evidence; None: there is no run yet.
        out: Where claims.md and claims.json are written.
    """
    conclusions = conclude_findings(results)
    for table in reversed(build_tables(conclusions)):
        say(table.to_rich())
    write_conclusions(conclusions, out)
    say(f"verdicts are in {out / 'claims.md'} and {out / 'claims.json'}")
    return conclusions


def conclude_findings(results: Path | None) -> Conclusions:
    """Return the conclusions of both sources; `results` as in `report_findings`."""
    criteria, verdicts = load_criteria(), load_released_verdicts()
    printed = [finding.evidence_from_paper(verdicts, criteria) for finding in FINDINGS]
    return {
        "paper": conclude(printed, criteria),
        "ours": conclude(gather_from_runs(results, criteria), criteria),
    }


def gather_from_runs(results: Path | None, criteria: Criteria) -> list[Evidence]:
    """Return what stored runs have on each finding.

    Raises:
        StoreError: There is no such folder.
    """
    runs = load_evaluated_runs(results) if results else []
    verdicts = load_judgments(results) if results else pd.DataFrame()
    notes = tuple(dict.fromkeys(f"{run.model}: {run.note}" for run in runs if run.note))
    return [
        Evidence(finding=k, parts=finding.parts_from_runs(runs, verdicts, criteria), notes=notes)
        for k, finding in enumerate(FINDINGS, 1)
    ]


def conclude(evidence: Sequence[Evidence], criteria: Criteria) -> list[Conclusion]:
    """Conclude on all findings of one source; one without data stays in the family at p = 1."""
    p_for = adjust_holm([one.p_for for one in evidence]).tolist()
    p_against = adjust_holm([one.p_against for one in evidence]).tolist()
    return [
        Conclusion(
            evidence=one,
            outcome=_outcome(p, q, criteria) if one.measured else Outcome.NOT_RUN,
            p_for=p,
            p_against=q,
        )
        for one, p, q in zip(evidence, p_for, p_against, strict=True)
    ]


def _outcome(p_for: float, p_against: float, criteria: Criteria) -> Outcome:
    if p_against <= criteria.alpha:
        return Outcome.CONTRADICTED
    return Outcome.SUPPORTED if p_for <= criteria.alpha else Outcome.NOT_RESOLVED


def _outcome_alone(part: Part, criteria: Criteria) -> Outcome:
    """Return what a comparison shows by itself, without correction."""
    if isinstance(part, MissingComparison):
        return Outcome.NOT_RUN
    return _outcome(part.supports, part.contradicts, criteria)


def build_tables(conclusions: Conclusions) -> list[Table]:
    """Return the overview, then the comparisons of each source, ours first."""
    criteria = load_criteria()
    each = [build_details(source, of, criteria) for source, of in conclusions.items()]
    return [build_overview(conclusions, criteria), *reversed(each)]


def build_overview(conclusions: Conclusions, criteria: Criteria) -> Table:
    """Return a row a finding, a column a source."""
    rows = [
        {
            "finding": f"{k} {one.finding}",
            "hypothesis": one.hypothesis.format(same_order=criteria.same_order),
        }
        | {f"from {SOURCES[source]}": _describe(of[k - 1]) for source, of in conclusions.items()}
        for k, one in enumerate(criteria.hypotheses, 1)
    ]
    notes = [
        "the paper: its printed numbers and released verdicts; our runs: the results folder's",
        f"all parts of a finding must hold; p after Holm over {len(rows)}, at {criteria.alpha:g}",
        *(f"margin of {m.value:g} {m.unit}: {m.reason}" for m in criteria.margins.values()),
    ]
    return Table(title="The seven findings", frame=pd.DataFrame(rows), notes=notes)


def _describe(conclusion: Conclusion) -> str:
    outcome, evidence = conclusion.outcome, conclusion.evidence
    if outcome is Outcome.NOT_RUN:
        return outcome
    if outcome is Outcome.NOT_RESOLVED and evidence.missing:
        parts = len(evidence.missing) + len(evidence.measured)
        return f"{outcome} ({len(evidence.missing)} of {parts} parts not run)"
    contradicted = outcome is Outcome.CONTRADICTED
    p = format_p(conclusion.p_against if contradicted else conclusion.p_for)
    return f"{outcome} (p {p if p.startswith('<') else f'= {p}'})"


def build_details(source: str, conclusions: Sequence[Conclusion], criteria: Criteria) -> Table:
    """Return a row a comparison of one source."""
    rows, notes = [], list(LEGEND)
    for evidence in (conclusion.evidence for conclusion in conclusions):
        for part in evidence.parts:
            rows.append({"": evidence.finding, **_detail(part, evidence, criteria)})
            if isinstance(part, Comparison):
                notes += [f"{evidence.finding}, {part.about.part}: {n}" for n in part.about.notes]
        if source == "paper":
            notes += [f"{evidence.finding}: {note}" for note in evidence.notes]
    if source == "ours":
        notes += conclusions[0].evidence.notes  # of the models, the same for each finding
    return Table(title=f"From {SOURCES[source]}", frame=pd.DataFrame(rows), notes=notes)


def _detail(part: Part, evidence: Evidence, criteria: Criteria) -> dict[str, str]:
    alone = _outcome_alone(part, criteria)
    if isinstance(part, MissingComparison):
        unknown = dict.fromkeys(("effect", "n", "noise", "detectable", "p"), NOT_KNOWN)
        return {"comparison": part.part, "test": f"needs {part.needs}", **unknown, "alone": alone}
    about, detectable = part.about, evidence.detectable(part, criteria)
    return {
        "comparison": about.part if about.required else f"(beside) {about.part}",
        "test": part.test + (f", margin {part.bound:g}" if part.equivalence else ""),
        "effect": f"{part.effect:+.3g} [{part.low:+.3g}, {part.high:+.3g}] {about.unit}",
        "n": f"{about.n} {about.of}" + (f", {about.seeds} seeds" if about.seeds else ""),
        "noise": NOT_KNOWN if part.floor is None else f"{part.floor:.2g}",
        "detectable": "out of reach" if detectable is None else f"{detectable:.3g}",
        "p": format_p(part.p_for),
        "alone": alone,
    }


def format_p(p: float) -> str:
    """Return a p-value as text.

    >>> format_p(0.0000123), format_p(0.0421)
    ('< 0.0001', '0.042')
    """
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def write_conclusions(conclusions: Conclusions, out: Path) -> None:
    """Write claims.md, and claims.json with the criteria that were fixed beforehand."""
    criteria = load_criteria()
    pages = [table.to_markdown() for table in build_tables(conclusions)]
    document = {
        "fixed": asdict(criteria),
        "sources": {
            source: [_finding_facts(conclusion, criteria) for conclusion in of]
            for source, of in conclusions.items()
        },
    }
    write_atomic(out / "claims.md", "\n".join(pages))
    write_atomic(out / "claims.json", json.dumps(document, indent=2) + "\n")


def _finding_facts(conclusion: Conclusion, criteria: Criteria) -> dict[str, Any]:
    evidence = conclusion.evidence
    stated = criteria.hypotheses[evidence.finding - 1]
    return {
        "number": evidence.finding,
        "finding": stated.finding,
        "hypothesis": stated.hypothesis.format(same_order=criteria.same_order),
        "verdict": conclusion.outcome,
        "p_for": conclusion.p_for,
        "p_against": conclusion.p_against,
        "parts": [_part_facts(part, evidence, criteria) for part in evidence.parts],
        "notes": list(evidence.notes),
    }


def _part_facts(part: Part, evidence: Evidence, criteria: Criteria) -> dict[str, Any]:
    outcome = _outcome_alone(part, criteria)
    if isinstance(part, MissingComparison):
        return {**asdict(part), "verdict": outcome}
    return {
        **asdict(part.about),
        "test": part.test,
        "effect": part.effect,
        "low": part.low,
        "high": part.high,
        "bound": part.bound,
        "noise_floor": part.floor,
        "detectable": evidence.detectable(part, criteria),
        "p_for": part.p_for,
        "p_against": part.p_against,
        "verdict": outcome,
    }
