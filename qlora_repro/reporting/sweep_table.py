"""The tables at the end of a sweep: a row a cell, seeds folded and paired, what failed."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from qlora_repro.config.schema import RunConfig
from qlora_repro.records import Answer
from qlora_repro.reporting.run_table import (
    CellResult,
    Line,
    Scores,
    compare,
    interval,
    number,
    p_value,
    span,
)
from qlora_repro.store.run_id import key

SHORT = {"out of memory": "OOM"}  # states as a table has them
Row = tuple[str, str, RunConfig | None, CellResult | None]  # label, state, configuration, result
Bad = tuple[int, str, str, str]  # number from 1, label, state, why


@dataclass(frozen=True, kw_only=True)
class Group:
    """The cells that differ in nothing but their seed."""

    label: str
    results: list[CellResult]
    lost: list[str]  # states of those that have no result

    def scores(self, column: tuple[str, str]) -> list[float]:
        """Return a score of each seed that has one, after training where there was any."""
        lines = [
            line for r in self.results for line in r.lines if (line.task, line.metric) == column
        ]
        shown = [line.before if line.after is None else line.after for line in lines]
        return [value for value in shown if value is not None]


def sweep_tables(rows: Sequence[Row]) -> list[Table]:
    """Return a row a cell; and, where there are scores, each group of seeds against the first."""
    results = [found for *_, found in rows if found is not None]
    columns: list[tuple[str, str]] = []
    for result in results:
        shown = [(line.task, line.metric) for line in result.lines]
        columns += [column for column in shown if column not in columns]
    made = [_cells(rows, columns)]
    groups = grouped(rows)
    folds = any(len(group.results) > 1 for group in groups)
    return made + [against_first(groups, c) for c in columns if len(groups) > 1 or folds]


def _cells(rows: Sequence[Row], columns: Sequence[tuple[str, str]]) -> Table:
    table = Table(title="the sweep, a row a cell", title_justify="left")
    table.add_column("cell")
    table.add_column("bits", justify="right")
    for task, metric in columns:
        table.add_column(f"{task}\n{metric}\nbefore > after", justify="right")
    for label, state, _, result in rows:
        if result is None:
            table.add_row(label, "-", *[SHORT.get(state, state)] * len(columns))
            continue
        found = {(line.task, line.metric): line for line in result.lines}
        bits = (result.manifest or {}).get("base", {}).get("bits_per_parameter")
        cells = [_before_after(found.get(column)) for column in columns]
        table.add_row(label, "-" if bits is None else f"{bits:.3f}", *cells)
    return table


def _before_after(line: Line | None) -> str:
    if line is None:
        return "-"
    return " > ".join(number(v) for v in (line.before, line.after) if v is not None) or "missing"


def grouped(rows: Sequence[Row]) -> list[Group]:
    """Fold the cells that differ in nothing but their seed, in the order of the first of each."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        cfg = row[2]
        name = row[0] if cfg is None else key(replace(cfg, seed=0), "eval")
        groups[name].append(row)
    return [
        Group(
            label=found[0][0].rpartition(", seed ")[0] or found[0][0],
            results=[result for *_, result in found if result is not None],
            lost=[SHORT.get(state, state) for _, state, _, result in found if result is None],
        )
        for found in groups.values()
    ]


def against_first(groups: Sequence[Group], column: tuple[str, str]) -> Table:
    """Return a row a group: its mean score over seeds, and the difference to the first group."""
    title = f"{' '.join(column)}: seeds folded, against the first cell"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("cell")
    for name in ("n", "seeds", "score [95% interval]", "difference [95% interval]", "paired p"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for group in groups:
        table.add_row(group.label, *_group_row(group, groups[0], column))
    table.caption = (
        "n questions; a score's interval is Student's over seeds, with one seed its questions'; a "
        "difference's is of resampled questions, each its mean over seeds"
    )
    return table


def _group_row(group: Group, first: Group, column: tuple[str, str]) -> list[str]:
    scores = group.scores(column)
    seeds = f"{len(scores)}" + (f" ({', '.join(group.lost)})" if group.lost else "")
    if not scores:
        return ["-", seeds, "missing", "-", "-", "-"]
    lines = [line for r in group.results for line in r.lines]
    n = next(line.n for line in lines if (line.task, line.metric) == column)
    shown = [str(n), seeds, _interval(group, column, scores)]
    if group is first:
        return [*shown, "-", "-", "the first"]
    found = compare(_folded(first, column), _folded(group, column), column)
    if found is None or found.difference is None or found.p is None:
        return [*shown, "-", "-", "not comparable"]
    difference = f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return [*shown, difference, p_value(found.p), found.verdict]


def _interval(group: Group, column: tuple[str, str], scores: Sequence[float]) -> str:
    mean = sum(scores) / len(scores)
    if len(scores) == 1:
        sets = [s for r in group.results if (s := r.after or r.before) is not None]
        (own,) = [s for s in sets if any((m.task, m.name) == column for m in s.metrics)][:1]
        ends = interval(own, column)
        return number(mean) if ends is None else f"{mean:.3f} {span(ends)}"
    from scipy import stats

    spread = math.sqrt(sum((x - mean) ** 2 for x in scores) / (len(scores) - 1) / len(scores))
    half = float(stats.t.ppf(0.975, len(scores) - 1)) * spread
    return f"{mean:.3f} {span((mean - half, mean + half))}"


def _folded(group: Group, column: tuple[str, str]) -> Scores:
    """Return a group's answers with each question's mean over its seeds; missing where one is."""
    values: dict[tuple[str, int, str], list[float | None]] = defaultdict(list)
    first: dict[tuple[str, int, str], Answer] = {}
    sets = [scores for r in group.results if (scores := r.after or r.before) is not None]
    for scores in sets:
        for answer in scores.answers:
            if answer.name == column[1]:
                place = answer.task, answer.doc_id, answer.doc_hash
                values[place].append(answer.value)
                first.setdefault(place, answer)
    answers = []
    for place, found in values.items():
        known = [value for value in found if value is not None]
        whole = len(known) == len(sets)
        answers.append(replace(first[place], value=sum(known) / len(known) if whole else None))
    return Scores(metrics=[], answers=answers)


def failures(bad: Sequence[Bad]) -> Table:
    """Return a row a cell that failed: which, how, why."""
    table = Table(title="cells without a result", title_justify="left")
    for name in ("cell", "settings", "state", "why"):
        table.add_column(name, overflow="fold")
    for place, label, state, why in bad:
        table.add_row(str(place), label, SHORT.get(state, state), " ".join(why.split())[:200])
    return table
