"""The whole audit of a verdict file: sections in the terminal, markdown, json and figures."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.judge_audit import groups, human_agreement, position, validity
from analysis.judge_audit.verdict_counts import (
    AuditSection,
    JudgeVerdicts,
    missing_section,
    split_by_judge,
)
from qlora_repro.console import say
from qlora_repro.store.integrity import write_atomic
from qlora_repro.store.verdicts import load_released_verdicts, read_verdicts

Sections = Mapping[str, AuditSection]
SECTIONS: dict[str, Callable[[JudgeVerdicts], AuditSection]] = {
    "shares": position.verdict_shares,
    "swapping": position.swap_agreement,
    "advantage": position.first_advantage,
    "closeness": groups.bias_by_closeness,
    "pairs_by_order": position.pair_winners_by_order,
    "ranks_by_order": position.ranks_by_order,
    "merge_rules": position.rankings_by_merge_rule,
    "score_scale": position.score_gains,
    "by_category": groups.bias_by_category,
    "by_language": groups.bias_by_language,
    "by_length": groups.bias_by_length,
    "verbosity": validity.verbosity,
    "self_preference": human_agreement.self_preference,
    "agreement": human_agreement.human_agreement,
    "equal_answers": validity.equal_answers,
    "parse_failures": validity.parse_failures,
}
NEED_NO_VERDICT = ("shares", "parse_failures")
RESAMPLES, SEED = 1000, 0
MARKERS = [  # (colour, marker)
    (style.BLUE, "o"),
    (style.ORANGE, "s"),
    (style.BLACK, "D"),
    (style.GREEN, "^"),
    (style.PINK, "v"),
    (style.RED, "P"),
    (style.SKY, "X"),
]
GROUPED = ("by_category", "by_language", "by_length")
MAX_SYSTEMS = 12  # in one figure; the best ones


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One judge's verdicts on one benchmark, with what they show."""

    source: str  # of the verdicts
    judged: JudgeVerdicts
    sections: dict[str, AuditSection]
    figures: dict[str, Figure]

    @property
    def title(self) -> str:
        """What is audited, in one line."""
        judged = self.judged
        return (
            f"audit of {judged.judge} on {judged.benchmark}, {judged.protocol}: "
            f"{len(judged.rows):,} rows, {len(judged.prompts):,} prompts"
        )

    def summarize(self) -> str:
        """Return the main results, a line each."""
        headlines = [each.headline for each in self.sections.values() if each.headline]
        return "\n".join(f"- {headline.rstrip('.')}." for headline in headlines)


def run_audit(ratings: Path | None, benchmark: str | None, out: Path) -> None:
    """Audit every judge of a verdict file, or of the released verdicts; print it and write it.

    Raises:
        DataError: The file is not one of verdicts, or lacks the benchmark.
    """
    for audit in audit_verdicts(ratings, benchmark):
        say(f"\n{audit.title}, from {audit.source}\n")
        for section in audit.sections.values():
            print_section(section)
        say("In short:\n" + audit.summarize())
        say(write_audit(audit, out))


def audit_verdicts(ratings: Path | None, benchmark: str | None) -> Iterator[Audit]:
    """Yield an audit of each judge in a file of verdicts; None for the released ones."""
    frame = load_released_verdicts() if ratings is None else read_verdicts(ratings)
    source = "the released verdicts" if ratings is None else str(ratings)
    for judged in split_by_judge(frame, benchmark=benchmark, resamples=RESAMPLES, seed=SEED):
        sections = audit_judge(judged)
        figures = dict(draw_figures(judged, sections))
        yield Audit(source=source, judged=judged, sections=sections, figures=figures)


def audit_judge(judged: JudgeVerdicts) -> dict[str, AuditSection]:
    """Return every section, also those that say why they could not be computed."""
    if judged.readable.empty:
        why = "no verdict could be read"
        missing = {
            name: missing_section(name.replace("_", " ").capitalize(), why) for name in SECTIONS
        }
        return missing | {name: SECTIONS[name](judged) for name in NEED_NO_VERDICT}
    return {name: section(judged) for name, section in SECTIONS.items()}


def print_section(section: AuditSection) -> None:
    """Print a section, its notes as lines below; one line where it could not be computed."""
    if section.frame.empty:
        say(f"{section.title}: {' '.join(section.notes)}\n")
        return
    say(replace(section, notes=[]).to_rich())
    say("\n".join(section.notes) + "\n")


def write_audit(audit: Audit, out: Path) -> str:
    """Write markdown, json and figures; return a line that names them."""
    judged, sections, title = audit.judged, audit.sections, audit.title
    texts = [f"# {title[0].upper()}{title[1:]}\n\nFrom {audit.source}.\n\n{audit.summarize()}\n"]
    texts += [f"#{section.to_markdown()}" for section in sections.values()]
    write_atomic(out / f"{judged.name}.md", "\n".join(texts))
    facts: dict[str, Any] = {
        "judge": judged.judge,
        "benchmark": judged.benchmark,
        "protocol": judged.protocol,
        "source": audit.source,
        "rows": len(judged.rows),
        "prompts": len(judged.prompts),
        "resamples": len(judged.weights),
        "sections": {name: {"notes": each.notes, **each.facts} for name, each in sections.items()},
    }
    write_atomic(out / f"{judged.name}.json", json.dumps(facts, indent=1) + "\n")
    for name, figure in audit.figures.items():
        figure.savefig(out / f"{judged.name}_{name}.png", dpi=200)
    return f"{out / judged.name}.md, .json and {len(audit.figures)} figures"


def draw_figures(judged: JudgeVerdicts, sections: Sections) -> Iterator[tuple[str, Figure]]:
    """Yield each figure whose sections could be computed, by name."""
    for name, (needs, draw) in FIGURES.items():
        if not all(sections[need].frame.empty for need in needs):
            figure = draw(sections)
            title = f"{judged.judge} on {judged.benchmark}, {judged.protocol}"
            figure.suptitle(title, fontsize=10)
            yield name, figure


def draw_swapping(sections: Sections) -> Figure:
    """Draw what each verdict turns into when the answers change places."""
    counts = np.array(sections["swapping"].facts["turned_into"])  # (3, 3)
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(4.5, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(percent):
        text = f"{value:.0f}%\nn = {counts[row, column]:,.0f}"
        colour = "white" if value > 55 else style.BLACK
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(3), position.WINS)
    axes.set_yticks(range(3), position.WINS)
    axes.set_xlabel("after swapping")
    axes.set_ylabel("in one order")
    return figure


def draw_closeness(sections: Sections) -> Figure:
    """Draw the bias of each pair of systems against how far apart they are."""
    pairs = list(sections["closeness"].facts["pairs"].values())
    figure, (axes,) = style.new_panels(width=5.0, height=3.2)
    gaps = [pair["gap"] for pair in pairs]
    for pair in pairs:
        low, high = pair["bias"]["low"], pair["bias"]["high"]
        if low is not None:
            axes.plot([pair["gap"]] * 2, [100 * low, 100 * high], color=style.SKY, linewidth=1)
    bias = [100 * pair["bias"]["value"] for pair in pairs]
    axes.plot(gaps, bias, "o", color=style.BLUE, label="seen, 95% over prompts", markersize=4.5)
    expected = [100 * pair["expected"] for pair in pairs]
    axes.plot(gaps, expected, color=style.ORANGE, label="with one advantage for all pairs")
    axes.axhline(0, color=style.GREY, linewidth=1)
    axes.set_xlabel("Elo between the two systems")
    axes.set_ylabel("first less second, points %")
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_merge_rules(sections: Sections) -> Figure:
    """Draw each system's Elo under each merge rule, with its interval."""
    facts = sections["merge_rules"].facts
    pooled = facts["pooled"]["skills"]
    systems = [name for name, skill in pooled.items() if skill["value"] is not None][:MAX_SYSTEMS]
    figure, (axes,) = style.new_panels(width=6.5, height=1.2 + 0.38 * len(systems))
    for k, (rule, ranking) in enumerate(facts.items()):
        shift = (k - (len(facts) - 1) / 2) * 0.13
        for row, name in enumerate(systems):
            label = rule if row == 0 else None
            _draw_interval(axes, ranking["skills"][name], row + shift, (*MARKERS[k], label))
    axes.set_yticks(range(len(systems)), systems)
    axes.invert_yaxis()
    axes.set_xlabel("Elo, 95% interval over prompts")
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=len(facts))
    return figure


def draw_advantage_by_group(sections: Sections) -> Figure:
    """Draw what being shown first is worth in each group of prompts or matches."""
    rows = [("all", sections["advantage"].facts["advantage"], style.BLACK)]
    for k, name in enumerate(GROUPED):
        by_group = sections[name].facts.get("groups", {})
        rows += [(group, facts["advantage"], MARKERS[k][0]) for group, facts in by_group.items()]
    figure, (axes,) = style.new_panels(width=5.5, height=1.0 + 0.26 * len(rows))
    for row, (_, facts, colour) in enumerate(rows):
        _draw_interval(axes, facts, row, (colour, "o", None))
    axes.axvline(0, color=style.GREY, linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("first-position advantage, Elo (95% interval over prompts)")
    return figure


def _draw_interval(
    axes: Axes,
    facts: Mapping[str, float | None],
    row: float,
    look: tuple[str, str, str | None],  # colour, marker, label
) -> None:
    """Draw one estimate; nothing where there is none, a hollow mark where it has no interval."""
    value, low, high = (facts[key] for key in ("value", "low", "high"))
    colour, marker, label = look
    if value is None:
        return
    face = "white"
    if low is not None and high is not None:
        axes.plot([low, high], [row, row], color=colour, linewidth=1.2)
        face = colour
    axes.plot(value, row, marker, color=colour, markerfacecolor=face, markersize=4.5, label=label)


FIGURES: dict[str, tuple[tuple[str, ...], Callable[[Sections], Figure]]] = {
    "swapping": (("swapping",), draw_swapping),
    "closeness": (("closeness",), draw_closeness),
    "merge_rules": (("merge_rules",), draw_merge_rules),
    "by_group": (GROUPED, draw_advantage_by_group),
}
