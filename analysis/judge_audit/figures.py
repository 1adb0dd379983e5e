"""Figures of an audit: swaps, bias against closeness, merge rules, the order's part by group."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, page, plain
from analysis.judge_audit.counted_verdicts import Material, Section
from analysis.judge_audit.position import WINS

LOOKS = [
    (BLUE, "o"),
    (ORANGE, "s"),
    (BLACK, "D"),
    (GREEN, "^"),
    (PINK, "v"),
    (RED, "P"),
    (SKY, "X"),
]
GROUPS = ("by_category", "by_language", "by_length")
MOST = 12  # systems in one figure; the best ones


def draw(material: Material, made: dict[str, Section], out: Path) -> list[Path]:
    """Write each figure whose sections could be computed; return where they lie."""
    written = []
    for name, drawn in figures(material, made):
        path = out / f"{material.name}_{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, dpi=200)
        written.append(path)
    return written


def figures(material: Material, made: dict[str, Section]) -> Iterator[tuple[str, Figure]]:
    """Yield each figure whose sections could be computed, by name."""
    for name, (needs, figure) in FIGURES.items():
        if any(made[need].frame is not None for need in needs):
            drawn = figure(made)
            title = f"{material.judge} on {material.benchmark}, {material.protocol}"
            drawn.suptitle(title, fontsize=10)
            yield name, drawn


def swapping(made: dict[str, Section]) -> Figure:
    """Draw what each verdict turns into when the answers change places."""
    turned = np.array(made["swapping"].facts["turned_into"])  # (3, 3)
    share = 100 * turned / np.maximum(turned.sum(axis=1, keepdims=True), 1)
    figure = page(width=4.5, height=2.6)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(share):
        text = f"{value:.0f}%\nn = {turned[row, column]:,.0f}"
        colour = "white" if value > 55 else BLACK
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(3), WINS)
    axes.set_yticks(range(3), WINS)
    axes.set_xlabel("after swapping")
    axes.set_ylabel("in one order")
    return figure


def closeness(made: dict[str, Section]) -> Figure:
    """Draw the bias of each pair of systems against how far apart they are."""
    pairs = list(made["closeness"].facts["pairs"].values())
    figure = page(width=5.0, height=3.2)
    axes = plain(figure.subplots())
    gaps = [pair["gap"] for pair in pairs]
    for pair in pairs:
        low, high = pair["bias"]["low"], pair["bias"]["high"]
        if low is not None:
            axes.plot([pair["gap"]] * 2, [100 * low, 100 * high], color=SKY, linewidth=1)
    seen = [100 * pair["bias"]["value"] for pair in pairs]
    axes.plot(gaps, seen, "o", color=BLUE, label="seen, 95% over prompts", markersize=4.5)
    expected = [100 * pair["expected"] for pair in pairs]
    axes.plot(gaps, expected, color=ORANGE, label="with one advantage for all pairs")
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set_xlabel("Elo between the two systems")
    axes.set_ylabel("first less second, points %")
    axes.legend(frameon=False, fontsize=8)
    return figure


def merge_rules(made: dict[str, Section]) -> Figure:
    """Draw each system's Elo under each merge rule, with its interval."""
    facts = made["merge_rules"].facts
    pooled = facts["pooled"]["skills"]
    systems = [name for name, skill in pooled.items() if skill["value"] is not None][:MOST]
    figure = page(width=6.5, height=1.2 + 0.38 * len(systems))
    axes = plain(figure.subplots())
    for at, (rule, found) in enumerate(facts.items()):
        shift = (at - (len(facts) - 1) / 2) * 0.13
        colour, marker = LOOKS[at]
        for row, name in enumerate(systems):
            label = rule if row == 0 else None
            _interval(axes, found["skills"][name], row + shift, (colour, marker, label))
    axes.set_yticks(range(len(systems)), systems)
    axes.invert_yaxis()
    axes.set_xlabel("Elo, 95% interval over prompts")
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=len(facts))
    return figure


def by_group(made: dict[str, Section]) -> Figure:
    """Draw what being shown first is worth in each group of prompts or matches."""
    rows = [("all", made["advantage"].facts["advantage"], BLACK)]
    for at, name in enumerate(GROUPS):
        found = made[name].facts.get("groups", {})
        rows += [(group, facts["advantage"], LOOKS[at][0]) for group, facts in found.items()]
    figure = page(width=5.5, height=1.0 + 0.26 * len(rows))
    axes = plain(figure.subplots())
    for row, (_, facts, colour) in enumerate(rows):
        _interval(axes, facts, row, (colour, "o", None))
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("first-position advantage, Elo (95% interval over prompts)")
    return figure


def _interval(
    axes: Axes, facts: dict[str, float | None], row: float, look: tuple[str, str, str | None]
) -> None:
    """Draw one estimate; nothing where there is none, a hollow mark where it has no interval."""
    value, low, high = (facts[key] for key in ("value", "low", "high"))
    colour, marker, label = look
    if value is None:
        return
    known = low is not None and high is not None
    if low is not None and high is not None:
        axes.plot([low, high], [row, row], color=colour, linewidth=1.2)
    face = colour if known else "white"
    axes.plot(value, row, marker, color=colour, markerfacecolor=face, markersize=4.5, label=label)


FIGURES: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Section]], Figure]]] = {
    "swapping": (("swapping",), swapping),
    "closeness": (("closeness",), closeness),
    "merge_rules": (("merge_rules",), merge_rules),
    "by_group": (GROUPS, by_group),
}
