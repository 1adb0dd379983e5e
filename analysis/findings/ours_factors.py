"""Findings 4 and 7 from the store: full grids of two factors, seeds as repeats."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.findings.margins import Fixed, Score
from analysis.findings.runs import Run, grouped, matrices, training
from qlora_repro.stats.estimates import (
    About,
    Missing,
    Part,
    crossed,
    equivalence,
    pooled_noise,
    stacked,
    superiority,
)
from qlora_repro.stats.variance import balanced, more_spread

Array = NDArray[np.float64]
Level = Callable[[Run], str]
TEST = "t over seeds and questions"
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Runs of every combination of two factors' levels, with the same seeds in each."""

    rows: list[str]
    columns: list[str]
    arms: dict[tuple[str, str], dict[int, Run]]
    seeds: list[int]

    def scores(self, score: Score) -> Array | None:
        """Return scores in the unit of the margin: (rows, columns, S, Q); None without any."""
        order = [self.arms[row, column] for row in self.rows for column in self.columns]
        found = matrices(order, score.task, score.name)
        if not found:
            return None
        shape = (len(self.rows), len(self.columns), *found[0].shape)
        return np.array(found).reshape(shape) * score.scale


def full_grid(runs: Sequence[Run], row: Level, column: Level) -> Grid:
    """Return the grid of the rows that have every column; run twice, the later counts."""
    arms: dict[tuple[str, str], dict[int, Run]] = {}
    for run in runs:
        arms.setdefault((row(run), column(run)), {})[int(run.at("seed"))] = run
    columns = list(dict.fromkeys(name for _, name in arms))
    rows = [
        name
        for name in dict.fromkeys(name for name, _ in arms)
        if all((name, other) in arms for other in columns)
    ]
    kept = {key: arm for key, arm in arms.items() if key[0] in rows}
    seeds = sorted(set.intersection(*(set(arm) for arm in kept.values()))) if kept else []
    return Grid(rows=rows, columns=columns, arms=kept, seeds=seeds)


def kind_over_size(runs: Sequence[Run], fixed: Fixed) -> list[Part]:
    """Finding 4: kinds of data (quality, suitability, source) against rows, same steps."""
    kinds = {name: path for name, path in fixed.factors.items() if name != "size"}

    def same(run: Run) -> object:
        rest = ("model", "dtype", "dq", "lora", "train", "data.train_on_source")
        return [run.at(path) for path in rest]

    def kind(run: Run) -> str:
        said = {name: run.at(path) for name, path in kinds.items()}
        return ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)

    parts: list[Part] = []
    for group in grouped([run for run in runs if run.tuned], same):
        grid = full_grid(group, kind, lambda run: str(run.at(fixed.factors["size"])))
        if min(len(grid.rows), len(grid.columns)) > 1 and len(grid.seeds) >= fixed.fewest_seeds:
            made_of = {
                name: [_of_row(grid, row, path) for row in grid.rows]
                for name, path in kinds.items()
            }
            parts += _spreads(grid, ("kinds of data", "sizes"), group[0].model, fixed, made_of)
    needs = f"every kind of data in every size, two or more of each, {fixed.fewest_seeds} seeds"
    return parts or [
        Missing(part="spread between kinds of data over that between sizes", needs=needs)
    ]


def _of_row(grid: Grid, row: str, path: str) -> str:
    arm = next(arm for (name, _), arm in grid.arms.items() if name == row)
    return str(next(iter(arm.values())).at(path))


def _spreads(
    grid: Grid,
    names: tuple[str, str],
    model: str,
    fixed: Fixed,
    made_of: Mapping[str, Sequence[str]] | None = None,
) -> list[Part]:
    parts: list[Part] = []
    for score in fixed.scores:
        cells = grid.scores(score)
        if cells is None:
            continue
        means = cells.mean(axis=-1)  # (rows, columns, S)
        about = About(
            part=f"spread between {names[0]} over that between {names[1]}, {model}, {score.task}",
            unit=f"{fixed.margins[score.margin].unit}, sd",
            n=means.size,
            of="runs",
            seeds=means.shape[-1],
            notes=(shares(means, names) + within(means, made_of or {}),),
        )
        parts.append(more_spread(balanced(means, 0), balanced(means, 1), about))
    return parts


def shares(means: Array, names: tuple[str, str]) -> str:
    """Return how the variance of runs, (rows, columns, S), falls to the factors and to seeds.

    >>> shares(np.array([[[1.0, 1.0], [1.0, 1.0]], [[3.0, 3.0], [3.0, 3.0]]]), ("a", "b"))
    'of the variance of runs: a 100%, b 0%, both together 0%, seeds 0%'
    """
    total = float(((means - means.mean()) ** 2).sum()) or 1.0
    by_row = means.mean(axis=(1, 2), keepdims=True) - means.mean()
    by_column = means.mean(axis=(0, 2), keepdims=True) - means.mean()
    cells = means.mean(axis=2, keepdims=True) - means.mean() - by_row - by_column
    count = [means.size // part.size for part in (by_row, by_column, cells)]
    parts = [
        k * float((part**2).sum()) / total
        for k, part in zip(count, (by_row, by_column, cells), strict=True)
    ]
    said = zip((*names, "both together", "seeds"), (*parts, 1 - sum(parts)), strict=True)
    return "of the variance of runs: " + ", ".join(f"{n} {abs(s):.0%}" for n, s in said)


def within(means: Array, factors: Mapping[str, Sequence[str]]) -> str:
    """Return how the rows' part of the variance falls to what they are made of: a level a row.

    "" where rows differ in one factor alone, or not every level goes with every other as often.

    >>> means = np.array([0.0, 0.0, 2.0, 2.0]).reshape(4, 1, 1)
    >>> within(means, {"quality": ["0", "1", "0", "1"], "suitability": ["a", "a", "b", "b"]})
    '; of kinds, quality 0%, suitability 100%, both together 0%'
    """
    varied = {name: levels for name, levels in factors.items() if len(set(levels)) > 1}
    combined = list(zip(*varied.values(), strict=True))
    crossed_all = math.prod(len(set(levels)) for levels in varied.values())
    if len(varied) < 2 or len(set(combined)) != len(combined) or len(combined) != crossed_all:
        return ""
    rows = means.mean(axis=(1, 2)) - means.mean()  # (rows,)
    total = float(((means - means.mean()) ** 2).sum()) or 1.0
    each = means.size // len(rows)
    said = {}
    for name, levels in varied.items():
        effects = [np.mean([rows[i] for i, of in enumerate(levels) if of == own]) for own in levels]
        said[name] = each * float(np.square(effects).sum()) / total
    said["both together"] = each * float(np.square(rows).sum()) / total - sum(said.values())
    return "; of kinds, " + ", ".join(f"{name} {abs(share):.0%}" for name, share in said.items())


def placement_over_rank(runs: Sequence[Run], fixed: Fixed) -> list[Part]:
    """Finding 7: placements against ranks, and all layers against as many parameters in fewer."""

    def same(run: Run) -> object:
        lora = {k: v for k, v in (run.at("lora") or {}).items() if k not in ("target", "r")}
        return [*(run.at(k) for k in ("model", "dtype", "dq", "data")), training(run), lora]

    parts: list[Part] = []
    adapted = [run for run in runs if run.tuned and run.at("lora.r")]
    for group in grouped(adapted, same):
        grid = full_grid(group, lambda run: str(run.at("lora.target")), lambda r: str(r.at(RANK)))
        if min(len(grid.rows), len(grid.columns)) > 1 and len(grid.seeds) >= fixed.fewest_seeds:
            parts += _spreads(grid, ("placements", "ranks"), group[0].model, fixed)
            parts += _controls(grid, group[0].model, fixed)
    needs = f"every placement in every rank, all layers among them, {fixed.fewest_seeds} seeds"
    return parts or [Missing(part="placements against ranks, parameters matched", needs=needs)]


RANK = "lora.r"


def _controls(grid: Grid, model: str, fixed: Fixed) -> list[Part]:
    parts: list[Part] = []
    narrower = [row for row in grid.rows if row != ALL]
    if ALL not in grid.rows:
        needs = "adapters on all layers in the same ranks"
        return [Missing(part=f"all layers over fewer, {model}", needs=needs)]
    for score in fixed.scores:
        cells = grid.scores(score)
        if cells is None:
            continue
        noise = pooled_noise(stacked(list(cells.reshape(-1, *cells.shape[2:]))))
        floor = noise.floor(cells.shape[2])
        unit = fixed.margins[score.margin].unit
        size = {"unit": unit, "n": cells.shape[3], "of": "questions", "seeds": cells.shape[2]}
        for row in narrower:
            pair = matched(grid, row)
            part = f"all layers over {row} with no fewer parameters, {model}, {score.task}"
            if pair is None:
                parts.append(Missing(part=part, needs=f"a larger rank of {row}"))
                continue
            wide, narrow, note = pair
            gained = (
                cells[grid.rows.index(ALL), grid.columns.index(wide)]
                - (cells[grid.rows.index(row), grid.columns.index(narrow)])
            )
            about = About(part=part, notes=(note,), **size)
            parts.append(superiority(crossed(gained, noise), about, test=TEST, floor=floor))
        ranks = sorted(grid.columns, key=int)
        least, most = grid.columns.index(ranks[0]), grid.columns.index(ranks[-1])
        change = cells[grid.rows.index(ALL), most] - cells[grid.rows.index(ALL), least]
        about = About(
            part=f"r = {ranks[-1]} against r = {ranks[0]}, all layers, {model}, {score.task}",
            required=False,
            **size,
        )
        margin = fixed.margins[score.margin].value
        parts.append(
            equivalence(crossed(change, noise), about, margin=margin, test=TEST, floor=floor)
        )
    return parts


def matched(grid: Grid, row: str) -> tuple[str, str, str] | None:
    """Return the ranks (of all layers, of `row`) with the least surplus of parameters in `row`."""

    def params(where: str, rank: str) -> int:
        return next(iter(grid.arms[where, rank].values())).trainable or 0

    surplus = {
        (wide, narrow): params(row, narrow) / params(ALL, wide)
        for wide in grid.columns
        for narrow in grid.columns
        if params(row, narrow) >= params(ALL, wide) > 0
    }
    if not surplus:
        return None
    wide, narrow = min(surplus, key=lambda pair: surplus[pair])
    note = f"r = {wide} against r = {narrow}, {surplus[wide, narrow]:.2f} times the parameters"
    return wide, narrow, note
