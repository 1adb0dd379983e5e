"""The tables at the end of a sweep: a row a cell, seeds averaged and compared, what failed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from rich.table import Table

from qlora_repro.config.schema import RunConfig
from qlora_repro.console import right_aligned
from qlora_repro.records import Answer, CellState
from qlora_repro.reporting.run_table import (
    CellResult,
    ScoreLine,
    Scores,
    compare_scores,
    format_interval,
    format_p_value,
    format_score,
    score_interval,
)
from qlora_repro.store.run_id import stage_digest


class SweepRow(NamedTuple):
    """A cell of a sweep."""

    number: int  # from 1
    label: str
    state: CellState
    why: str  # it has no result
    cfg: RunConfig | None  # None for one whose settings were refused
    result: CellResult | None


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """The cells that differ in nothing but their seed."""

    label: str
    results: list[CellResult]
    failed: list[str]  # states of those that have no result

    def scores(self, column: tuple[str, str]) -> list[float]:
        """Return a score of each seed that has one, after training where there was any."""
        lines = [
            line for r in self.results for line in r.lines if (line.task, line.metric) == column
        ]
        shown = [line.before if line.after is None else line.after for line in lines]
        return [value for value in shown if value is not None]


def build_sweep_tables(rows: Sequence[SweepRow]) -> list[Table]:
    """Return a row a cell; and, where there are scores, each group of seeds against the first."""
    results = [row.result for row in rows if row.result is not None]
    columns: list[tuple[str, str]] = []
    for result in results:
        shown = [(line.task, line.metric) for line in result.lines]
        columns += [column for column in shown if column not in columns]
    tables = [_build_cells_table(rows, columns)]
    groups = group_seeds(rows)
    repeated = any(len(group.results) > 1 for group in groups)
    if len(groups) > 1 or repeated:
        tables += [build_comparison_table(groups, column) for column in columns]
    return tables


def _build_cells_table(rows: Sequence[SweepRow], columns: Sequence[tuple[str, str]]) -> Table:
    headings = (f"{task}\n{metric}\nbefore > after" for task, metric in columns)
    numbers = right_aligned("bits", *headings)
    table = Table("cell", *numbers, title="the sweep, a row a cell", title_justify="left")
    for row in rows:
        if row.result is None:
            table.add_row(row.label, "-", *[_shorten(row.state)] * len(columns))
            continue
        lines = {(line.task, line.metric): line for line in row.result.lines}
        bits = row.result.manifest.base.bits_per_parameter if row.result.manifest else None
        scores = [_before_after(lines.get(column)) for column in columns]
        table.add_row(row.label, "-" if bits is None else f"{bits:.3f}", *scores)
    return table


def _shorten(state: CellState) -> str:
    return "OOM" if state == CellState.OUT_OF_MEMORY else state


def _before_after(line: ScoreLine | None) -> str:
    if line is None:
        return "-"
    return (
        " > ".join(format_score(v) for v in (line.before, line.after) if v is not None) or "missing"
    )


def group_seeds(rows: Sequence[SweepRow]) -> list[SeedGroup]:
    """Group the cells that differ in nothing but their seed, in the order of their first cells."""
    groups: dict[str, list[SweepRow]] = defaultdict(list)
    for row in rows:
        name = row.label if row.cfg is None else stage_digest(replace(row.cfg, seed=0), "eval")
        groups[name].append(row)
    return [
        SeedGroup(
            label=group[0].label.rpartition(", seed ")[0] or group[0].label,
            results=[row.result for row in group if row.result is not None],
            failed=[_shorten(row.state) for row in group if row.result is None],
        )
        for group in groups.values()
    ]


def build_comparison_table(groups: Sequence[SeedGroup], column: tuple[str, str]) -> Table:
    """Return a row a group: its mean score over seeds, and the difference to the first group."""
    title = f"{' '.join(column)}: seeds folded, against the first cell"
    numbers = ("n", "seeds", "score [95% interval]", "difference [95% interval]", "paired p")
    table = Table("cell", *right_aligned(*numbers), "verdict", title=title)
    table.title_justify = table.caption_justify = "left"
    for group in groups:
        table.add_row(group.label, *_group_row(group, groups[0], column))
    table.caption = (
        "n questions; a score's interval is Student's over seeds, with one seed its questions'; a "
        "difference's is of resampled questions, each its mean over seeds"
    )
    return table


def _group_row(group: SeedGroup, first: SeedGroup, column: tuple[str, str]) -> list[str]:
    scores = group.scores(column)
    seeds = f"{len(scores)}" + (f" ({', '.join(group.failed)})" if group.failed else "")
    if not scores:
        return ["-", seeds, "missing", "-", "-", "-"]
    lines = [line for r in group.results for line in r.lines]
    n = next(line.n for line in lines if (line.task, line.metric) == column)
    shown = [str(n), seeds, _format_mean(group, column, scores)]
    if group is first:
        return [*shown, "-", "-", "the first"]
    paired = compare_scores(
        _mean_over_seeds(first, column), _mean_over_seeds(group, column), column
    )
    if paired is None or paired.difference is None or paired.p is None:
        return [*shown, "-", "-", "not comparable"]
    difference = f"{paired.difference:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}]"
    return [*shown, difference, format_p_value(paired.p), paired.verdict]


def _format_mean(group: SeedGroup, column: tuple[str, str], scores: Sequence[float]) -> str:
    mean = sum(scores) / len(scores)
    if len(scores) == 1:
        sets = [s for r in group.results if (s := r.after or r.before) is not None]
        (scored,) = [s for s in sets if any((m.task, m.name) == column for m in s.metrics)][:1]
        ends = score_interval(scored, column)
        return format_score(mean) if ends is None else f"{mean:.3f} {format_interval(ends)}"
    import numpy as np

    from qlora_repro.stats.estimates import estimate_mean  # scipy: half a second

    return f"{mean:.3f} {format_interval(estimate_mean(np.array(scores)).interval())}"


def _mean_over_seeds(group: SeedGroup, column: tuple[str, str]) -> Scores:
    """Return a group's answers with each question's mean over its seeds; missing where one is."""
    values: dict[tuple[str, int, str], list[float | None]] = defaultdict(list)
    first: dict[tuple[str, int, str], Answer] = {}
    sets = [scores for r in group.results if (scores := r.after or r.before) is not None]
    for scores in sets:
        for answer in scores.answers:
            if answer.name == column[1]:
                question = answer.task, answer.doc_id, answer.doc_hash
                values[question].append(answer.value)
                first.setdefault(question, answer)
    answers = []
    for question, of_seeds in values.items():
        known = [value for value in of_seeds if value is not None]
        mean = sum(known) / len(known) if len(known) == len(sets) else None
        answers.append(replace(first[question], value=mean))
    return Scores(metrics=[], answers=answers)


def build_failure_table(rows: Sequence[SweepRow]) -> Table:
    """Return a row a cell that failed: which, how, why."""
    table = Table(title="cells without a result", title_justify="left")
    for name in ("cell", "settings", "state", "why"):
        table.add_column(name, overflow="fold")
    for row in rows:
        why = " ".join(row.why.split())[:200]
        table.add_row(str(row.number), row.label, _shorten(row.state), why)
    return table
