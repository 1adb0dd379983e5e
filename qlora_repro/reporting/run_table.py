"""What one evaluation says, and what two of them say together: intervals and paired tests.

The table at the end of a run: before, after, interval, paired test; what it cost; what next.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.table import Table

from qlora_repro.console import say
from qlora_repro.judge.result_table import Standing, judged_table
from qlora_repro.records import LOSS, PERPLEXITY, Answer, Metric, Paired

LOWER_IS_BETTER = (LOSS, PERPLEXITY, "kl", "squared_error")
BLOCK = 128  # tokens; those of one text depend on their neighbours, so blocks are resampled
NORMAL = 1.96  # standard errors


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What one evaluation left in the store."""

    metrics: list[Metric]
    answers: list[Answer]


def compare(before: Scores | None, after: Scores | None, where: tuple[str, str]) -> Paired | None:
    """Pair two evaluations on one (task, metric); None where one of them has no answers to it."""
    if before is None or after is None:
        return None
    old, new = (_of(scores.answers, where) for scores in (before, after))
    if not old or not new:
        return None
    from qlora_repro.stats.paired import (
        paired,  # scipy: half a second that a finished cell can do without
    )

    task, metric = where
    return paired(
        old,
        new,
        higher_is_better=metric not in LOWER_IS_BETTER,
        block=BLOCK if task == PERPLEXITY else 1,
    )


def _of(answers: Iterable[Answer], where: tuple[str, str]) -> list[Answer]:
    """Return a task's answers, or those of a group's tasks, which carry its name in front."""
    task, metric = where
    return [
        a for a in answers if a.name == metric and (a.task == task or a.task.startswith(f"{task}_"))
    ]


def interval(scores: Scores, where: tuple[str, str]) -> tuple[float, float] | None:
    """Return the 95% interval of one evaluation's score; None where its answers say nothing of it.

    Wilson's for right and wrong answers; else resampled questions, or blocks of a text's tokens.
    Of a group, whose mean weighs its tasks alike, it is two standard errors.
    """
    task, metric = where
    found = {(m.task, m.name): m for m in scores.metrics}[where]
    loss = LOSS if metric == PERPLEXITY else metric
    own = [a.value for a in scores.answers if (a.task, a.name) == (task, loss)]
    values = [value for value in own if value is not None]
    if not values:
        if found.value is None or found.stderr is None:
            return None
        return found.value - NORMAL * found.stderr, found.value + NORMAL * found.stderr
    import numpy as np

    from qlora_repro.stats import (
        paired as stats,  # scipy: half a second that a finished cell can do without
    )

    if set(values) <= {0.0, 1.0}:
        return stats.wilson(int(sum(values)), len(values))
    low, high = stats.block_interval(np.array(values), block=BLOCK if task == PERPLEXITY else 1)
    return (math.exp(low), math.exp(high)) if metric == PERPLEXITY else (low, high)


MANY = 12  # of more tasks than these, the table shows groups and averages only


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One cell of a sweep, as the tables show it."""

    label: str
    folder: Path
    model: str
    note: str | None  # what must be said of the weights
    limit: int | None
    before: Scores | None
    after: Scores | None
    manifest: dict[str, Any] | None
    training: dict[str, Any] | None
    predicted: int | None = (
        None  # bytes that planning foretells for model and training; None: unasked
    )
    judged: Sequence[Standing] = ()  # an opponent each
    judge: str = ""  # the kind of judge

    @cached_property
    def lines(self) -> list["Line"]:
        """Return a row a task and metric, with its paired test."""
        return lines(self.before, self.after)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One task's row."""

    task: str
    metric: str
    n: int
    before: float | None
    after: float | None
    chance: float | None  # what guessing scores; None where it is not known
    comparison: Paired | None
    interval: tuple[float, float] | None = None  # 95%, of a score that stands alone


def lines(before: Scores | None, after: Scores | None) -> list[Line]:
    """Return a row a task and metric, in the order of the evaluation; parts of tasks left out."""
    shown = after or before
    if shown is None:
        return []
    old = {(m.task, m.name): m for m in before.metrics} if before else {}
    new = {(m.task, m.name): m for m in after.metrics} if after else {}
    top = [m for m in shown.metrics if "/" not in m.task and m.name != "chance"]
    singles = {a.task for a in shown.answers}
    if len({m.task for m in top}) > MANY:
        top = [m for m in top if m.task not in singles]
    chance = {m.task: m.value for m in shown.metrics if m.name == "chance"}
    made = []
    for metric in top:
        where = (metric.task, metric.name)
        made.append(
            Line(
                task=metric.task,
                metric=metric.name,
                n=metric.n,
                before=old[where].value if where in old else None,
                after=new[where].value if where in new else None,
                chance=chance.get(metric.task),
                comparison=compare(before, after, where),
                interval=interval(before, where) if before and not after else None,
            )
        )
    return made


def cell_table(result: CellResult) -> Table:
    """Return the table of one run; what nothing was tuned for has one score and its interval."""
    title = f"{result.label}\n{result.model}" + (f": {result.note}" if result.note else "")
    if arithmetic := compute_dtype(result):
        title += f"\ncomputed in {arithmetic}"
    if result.limit is not None:
        title += f"\nlimit={result.limit}: not a figure to publish"
    table = Table(title=title, title_justify="left")
    for name in ("task", "metric", "n"):
        table.add_column(name)
    once = result.before is not None and result.after is None
    pair = ("before", "after", "difference [95% interval]", "paired p")
    for name in ("chance", *(("score", "95% interval") if once else pair)):
        table.add_column(name, justify="right")
    if not once:
        table.add_column("verdict")
    for line in result.lines:
        seen = (number(line.after), *_comparison(line.comparison))
        table.add_row(
            line.task,
            line.metric,
            str(line.n),
            "-" if line.chance is None else number(line.chance),
            number(line.before),
            *((span(line.interval),) if once else seen),
        )
    return table


def compute_dtype(result: CellResult) -> str | None:
    """Return the arithmetic that a run is on record with; None where nothing is."""
    decided = (result.manifest or {}).get("decided_by", {})
    name: str | None = decided.get("dtype", {}).get("compute_dtype")
    return name


def span(ends: tuple[float, float] | None) -> str:
    """Return an interval as a table has it.

    >>> span((0.1, 0.25)), span(None)
    ('[0.100, 0.250]', '-')
    """
    return "-" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def _comparison(found: Paired | None) -> tuple[str, str, str]:
    if found is None:
        return "-", "-", "-"
    if found.difference is None or found.p is None:
        return "missing", "-", found.verdict
    difference = f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return difference, p_value(found.p), found.verdict


def number(value: float | None) -> str:
    """Return a score with three digits; a missing one is said to be missing."""
    return "missing" if value is None else f"{value:.3f}"


def p_value(p: float) -> str:
    """Return a p-value as a table has it.

    >>> p_value(0.0000012), p_value(0.034)
    ('< 0.001', '0.034')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def cost_lines(result: CellResult) -> list[str]:
    """Return what the run cost and proved, in words."""
    said = []
    if result.manifest:
        if result.manifest["provenance"]["dirty"]:
            said.append("note: the code had uncommitted changes: not figures to publish")
        stored = result.manifest["base"]
        if stored["bits_per_parameter"] is not None:
            kind = "would take" if stored["simulated"] else "take"
            said.append(
                f"base: {stored['modules']} linear layers quantized, whose codes and scales {kind} "
                f"{stored['bits_per_parameter']:.3f} bits a parameter"
            )
    done = result.training
    if done:
        speed = done["tokens_per_second"]
        said.append(
            f"training: {len(done['steps'])} steps, {done['tokens']:,} tokens "
            f"({done['trained_tokens'] / done['tokens']:.0%} trained on), "
            + (f"{speed:,.0f} tokens/s, " if speed else "")
            + f"peak memory {done['peak_memory'] / 1e9:.2f} GB, optimizer {done['optim']}"
        )
        said += _memory_line(result, done["peak_memory"], done.get("paged_memory"))
    if result.folder.exists():  # not where another run's answers were judged
        said.append(f"everything lies in {result.folder}")
    return said


def _memory_line(result: CellResult, measured: int, paged: int | None) -> list[str]:
    """Return the predicted peak beside the measured one, and what each of them counts.

    CUDA's allocator does not count states that page, which planning counts among the rest.
    """
    if result.predicted is None:
        return []
    predicted = f"memory: {result.predicted / 1e9:.2f} GB predicted for the model and training"
    if paged:
        return [
            f"{predicted}, {measured / 1e9:.2f} GB measured (allocator) + {paged / 1e9:.2f} GB "
            f"paged = {(measured + paged) / 1e9:.2f} GB"
        ]
    device = (result.manifest or {}).get("provenance", {}).get("device", "cpu")
    counts = (
        "" if device != "cpu" else ", which is all that the process had resident, libraries too"
    )
    return [f"{predicted}, {measured / 1e9:.2f} GB measured{counts}"]


def show(result: CellResult) -> None:
    """Print a run's table, its cost, where it lies and what to try next."""
    if result.before or result.after:
        say(cell_table(result))
    elif result.note:
        say(f"{result.model}: {result.note}")
    if result.judged:
        say(judged_table(result.judged, kind=result.judge))
    for line in cost_lines(result):
        say(line)
    if result.after:
        say("next: python run.py -m dtype=bf16,nf4,fp4 compares data types; seed=0,1,2 repeats")
