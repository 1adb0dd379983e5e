"""The verdicts as tables for a terminal and for markdown, and as json.

python -m analysis claims: the seven verdicts, printed and written as markdown and json.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.findings import ours, paper
from analysis.findings.decide import Evidence, Verdict, alone, decide
from analysis.findings.margins import Fixed, fixed
from analysis.table import Table
from qlora_repro.console import say
from qlora_repro.stats.estimates import Measured, Missing
from qlora_repro.store.integrity import write_whole
from qlora_repro.store.verdicts import released

SOURCES = {
    "paper": "the paper",
    "ours": "our runs",
}
NONE = "-"
READ_AS = (
    "effect: its 95% interval in brackets; n: units, and seeds where anything trained",
    "noise: the 95% range of the same difference between repeated runs; one within it is not "
    "resolved",
    "detectable: the effect at which the finding would be found with the power asked, by Holm's "
    "strictest step and with all its parts; of a test of equality, the smallest margin it could "
    "show",
    "alone: what a part shows by itself at 5%; a finding needs all its parts, after Holm",
)
Decided = dict[str, list[Verdict]]


def overview(found: Decided, fixed: Fixed) -> Table:
    """Return a row a finding, a column a source."""
    rows = [
        {
            "finding": f"{k} {said.finding}",
            "hypothesis": said.hypothesis.format(same_order=fixed.same_order),
        }
        | {f"from {SOURCES[name]}": _word(verdicts[k - 1]) for name, verdicts in found.items()}
        for k, said in enumerate(fixed.hypotheses, 1)
    ]
    notes = [
        "the paper: its printed numbers and released verdicts; our runs: the results folder's",
        f"all parts of a finding must hold; p after Holm over {len(rows)}, at {fixed.alpha:g}",
        *(f"margin of {m.value:g} {m.unit}: {m.reason}" for m in fixed.margins.values()),
    ]
    return Table(title="The seven findings", frame=pd.DataFrame(rows), notes=notes)


def _word(verdict: Verdict) -> str:
    if verdict.word == "not run":
        return verdict.word
    if verdict.word == "not resolved" and verdict.evidence.missing:
        there = len(verdict.evidence.missing) + len(verdict.evidence.measured)
        return f"{verdict.word} ({len(verdict.evidence.missing)} of {there} parts not run)"
    against = verdict.word == "contradicted"
    p = shown(verdict.p_against if against else verdict.p_for)
    return f"{verdict.word} (p {p if p.startswith('<') else f'= {p}'})"


def details(name: str, verdicts: Sequence[Verdict], fixed: Fixed) -> Table:
    """Return a row a comparison of one source."""
    rows, notes = [], list(READ_AS)
    for verdict in verdicts:
        evidence = verdict.evidence
        for part in evidence.parts:
            rows.append({"": evidence.finding, **_row(part, evidence, fixed)})
            if isinstance(part, Measured):
                notes += [f"{evidence.finding}, {part.about.part}: {n}" for n in part.about.notes]
        if name == "paper":
            notes += [f"{evidence.finding}: {note}" for note in evidence.notes]
    if name != "paper" and verdicts:
        notes += verdicts[0].evidence.notes
    return Table(title=f"From {SOURCES[name]}", frame=pd.DataFrame(rows), notes=notes)


def _row(part: Measured | Missing, evidence: Evidence, fixed: Fixed) -> dict[str, str]:
    if isinstance(part, Missing):
        return {
            "comparison": part.part,
            "test": f"needs {part.needs}",
            **dict.fromkeys(("effect", "n", "noise", "detectable", "p"), NONE),
            "alone": "not run",
        }
    least = _detectable(part, evidence, fixed)
    about = part.about
    seeds = f", {about.seeds} seeds" if about.seeds else ""
    margin = f", margin {part.bound:g}" if part.equivalence else ""
    return {
        "comparison": about.part if about.required else f"(beside) {about.part}",
        "test": part.test + margin,
        "effect": f"{part.effect:+.3g} [{part.low:+.3g}, {part.high:+.3g}] {about.unit}",
        "n": f"{about.n} {about.of}{seeds}",
        "noise": NONE if part.floor is None else f"{part.floor:.2g}",
        "detectable": "out of reach" if least is None else f"{least:.3g}",
        "p": shown(part.p_for),
        "alone": alone(part, alpha=fixed.alpha),
    }


def _detectable(part: Measured, evidence: Evidence, fixed: Fixed) -> float | None:
    family = len(fixed.hypotheses)
    return evidence.detectable(part, alpha=fixed.alpha, power=fixed.power, family=family)


def shown(p: float) -> str:
    """Return a p-value as text.

    >>> shown(0.0000123), shown(0.0421)
    ('< 0.0001', '0.042')
    """
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def as_json(found: Decided, fixed: Fixed) -> dict[str, Any]:
    """Return everything, with what was fixed beforehand."""
    return {
        "fixed": asdict(fixed),
        "sources": {
            name: [_finding(verdict, fixed) for verdict in verdicts]
            for name, verdicts in found.items()
        },
    }


def _finding(verdict: Verdict, fixed: Fixed) -> dict[str, Any]:
    said = fixed.hypotheses[verdict.evidence.finding - 1]
    return {
        "number": verdict.evidence.finding,
        "finding": said.finding,
        "hypothesis": said.hypothesis.format(same_order=fixed.same_order),
        "verdict": verdict.word,
        "p_for": verdict.p_for,
        "p_against": verdict.p_against,
        "parts": [_part(part, verdict.evidence, fixed) for part in verdict.evidence.parts],
        "notes": list(verdict.evidence.notes),
    }


def _part(part: Measured | Missing, evidence: Evidence, fixed: Fixed) -> dict[str, Any]:
    if isinstance(part, Missing):
        return {**asdict(part), "verdict": "not run"}
    return {
        **asdict(part.about),
        "test": part.test,
        "effect": part.effect,
        "low": part.low,
        "high": part.high,
        "bound": part.bound,
        "noise_floor": part.floor,
        "detectable": _detectable(part, evidence, fixed),
        "p_for": part.p_for,
        "p_against": part.p_against,
        "verdict": alone(part, alpha=fixed.alpha),
    }


def claims(results: Path | None, out: Path) -> Decided:
    """Print and write the verdicts of both sources; return them. `results` None: no run yet."""
    found = decided(results)
    for table in reversed(tables(found)):
        say(table.rich())
    write(found, out)
    say(f"verdicts lie in {out / 'claims.md'} and {out / 'claims.json'}")
    return found


def decided(results: Path | None) -> Decided:
    """Return the verdicts of both sources."""
    held = fixed()
    return {
        "paper": decide(paper.evidence(released(), held), alpha=held.alpha),
        "ours": decide(ours.evidence(results, held), alpha=held.alpha),
    }


def tables(found: Decided) -> list[Table]:
    """Return the overview, then the comparisons of each source, ours first."""
    held = fixed()
    each = [details(name, verdicts, held) for name, verdicts in found.items()]
    return [overview(found, held), *reversed(each)]


def write(found: Decided, out: Path) -> None:
    """Write the verdicts as markdown and json."""
    pages = [table.markdown() for table in tables(found)]
    write_whole(out / "claims.md", "\n".join(pages))
    write_whole(out / "claims.json", json.dumps(as_json(found, fixed()), indent=2) + "\n")
