"""The table at the end of a run: scores before and after with their tests, cost, what next."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from qlora_repro.console import right_aligned, say
from qlora_repro.records import LOSS, PERPLEXITY, Answer, Manifest, Metric, Paired

if TYPE_CHECKING:
    from qlora_repro.judge.win_rates import WinRate

LOWER_IS_BETTER = (LOSS, PERPLEXITY, "kl", "squared_error")
TOKEN_BLOCK = 128  # tokens; those of one text depend on their neighbours, so blocks are resampled


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What one evaluation left in the store."""

    metrics: list[Metric]
    answers: list[Answer]


def compare_scores(
    before: Scores | None, after: Scores | None, where: tuple[str, str]
) -> Paired | None:
    """Pair two evaluations on one (task, metric); None where one of them has no answers to it."""
    if before is None or after is None:
        return None
    old, new = (_answers_to(scores.answers, where) for scores in (before, after))
    if not old or not new:
        return None
    from qlora_repro.stats.paired import compare_answers  # scipy, as in `interval`

    task, metric = where
    return compare_answers(
        old,
        new,
        higher_is_better=metric not in LOWER_IS_BETTER,
        block=TOKEN_BLOCK if task == PERPLEXITY else 1,
    )


def _answers_to(answers: Iterable[Answer], where: tuple[str, str]) -> list[Answer]:
    """Return a task's answers, or those of a group's tasks, which carry its name in front."""
    task, metric = where
    return [
        a for a in answers if a.name == metric and (a.task == task or a.task.startswith(f"{task}_"))
    ]


def score_interval(scores: Scores, where: tuple[str, str]) -> tuple[float, float] | None:
    """Return the 95% interval of one evaluation's score; None where its answers say nothing of it.

    Wilson's for right and wrong answers; else resampled questions, or blocks of a text's tokens.
    Of a group, whose mean weighs its tasks alike, it is two standard errors.
    """
    import numpy as np

    from qlora_repro.stats import intervals  # scipy: half a second that a finished cell can spare

    task, name = where
    metric = {(m.task, m.name): m for m in scores.metrics}[where]
    loss = LOSS if name == PERPLEXITY else name
    task_values = [a.value for a in scores.answers if (a.task, a.name) == (task, loss)]
    values = [value for value in task_values if value is not None]
    if not values:
        if metric.value is None or metric.stderr is None:
            return None
        return intervals.normal_interval(metric.value, metric.stderr)
    if set(values) <= {0.0, 1.0}:
        return intervals.wilson_interval(int(sum(values)), len(values))
    block = TOKEN_BLOCK if task == PERPLEXITY else 1
    low, high = intervals.mean_interval(np.array(values), block=block)
    return (math.exp(low), math.exp(high)) if name == PERPLEXITY else (low, high)


MANY_TASKS = 12  # of more tasks than these, the table shows groups and averages only


@dataclass(frozen=True, kw_only=True)
class ScoreLine:
    """One task's row."""

    task: str
    metric: str
    n: int
    before: float | None
    after: float | None
    chance: float | None  # what guessing scores; None where it is not known
    comparison: Paired | None
    interval: tuple[float, float] | None = None  # 95%, of a score that stands alone


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
    manifest: Manifest | None
    training: dict[str, Any] | None
    lines: Sequence[ScoreLine] = ()  # of `before` and `after`, with their paired tests
    predicted: int | None = None  # bytes of the planned peak; None: unasked
    win_rates: Sequence["WinRate"] = ()  # an opponent each
    judge: str = ""  # the kind of judge


def score_lines(before: Scores | None, after: Scores | None) -> list[ScoreLine]:
    """Return a row a task and metric, in the order of the evaluation; parts of tasks left out."""
    shown = after or before
    if shown is None:
        return []
    old = {(m.task, m.name): m for m in before.metrics} if before else {}
    new = {(m.task, m.name): m for m in after.metrics} if after else {}
    top = [m for m in shown.metrics if "/" not in m.task and m.name != "chance"]
    singles = {a.task for a in shown.answers}
    if len({m.task for m in top}) > MANY_TASKS:
        top = [m for m in top if m.task not in singles]
    chance = {m.task: m.value for m in shown.metrics if m.name == "chance"}
    lines = []
    for metric in top:
        where = (metric.task, metric.name)
        lines.append(
            ScoreLine(
                task=metric.task,
                metric=metric.name,
                n=metric.n,
                before=old[where].value if where in old else None,
                after=new[where].value if where in new else None,
                chance=chance.get(metric.task),
                comparison=compare_scores(before, after, where),
                interval=score_interval(before, where) if before and not after else None,
            )
        )
    return lines


def build_cell_table(result: CellResult) -> Table:
    """Return the table of one run; what nothing was tuned for has one score and its interval."""
    title = f"{result.label}\n{result.model}" + (f": {result.note}" if result.note else "")
    if arithmetic := compute_dtype(result):
        title += f"\ncomputed in {arithmetic}"
    if result.limit is not None:
        title += f"\nlimit={result.limit}: not a figure to publish"
    once = result.before is not None and result.after is None
    pair = ("before", "after", "difference [95% interval]", "paired p")
    scores = right_aligned("chance", *(("score", "95% interval") if once else pair))
    headings = ("task", "metric", "n", *scores, *(() if once else ("verdict",)))
    table = Table(*headings, title=title, title_justify="left")
    for line in result.lines:
        seen = (format_score(line.after), *_format_comparison(line.comparison))
        table.add_row(
            line.task,
            line.metric,
            str(line.n),
            "-" if line.chance is None else format_score(line.chance),
            format_score(line.before),
            *((format_interval(line.interval),) if once else seen),
        )
    return table


def compute_dtype(result: CellResult) -> str | None:
    """Return the arithmetic that a run is on record with; None where nothing is."""
    decided_by = result.manifest.decided_by if result.manifest else {}
    name: str | None = decided_by.get("dtype", {}).get("compute_dtype")
    return name


def format_interval(ends: tuple[float, float] | None) -> str:
    """Return an interval as a table has it.

    >>> format_interval((0.1, 0.25)), format_interval(None)
    ('[0.100, 0.250]', '-')
    """
    return "-" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def _format_comparison(comparison: Paired | None) -> tuple[str, str, str]:
    if comparison is None:
        return "-", "-", "-"
    if comparison.difference is None or comparison.p is None:
        return "missing", "-", comparison.verdict
    difference = f"{comparison.difference:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]"
    return difference, format_p_value(comparison.p), comparison.verdict


def format_score(value: float | None) -> str:
    """Return a score with three digits; a missing one is said to be missing."""
    return "missing" if value is None else f"{value:.3f}"


def format_p_value(p: float) -> str:
    """Return a p-value as a table has it.

    >>> format_p_value(0.0000012), format_p_value(0.034)
    ('< 0.001', '0.034')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def describe_cost(result: CellResult) -> list[str]:
    """Return what the run cost and proved, in words."""
    lines = []
    if result.manifest:
        if result.manifest.provenance.dirty:
            lines.append("note: the code had uncommitted changes: not figures to publish")
        base = result.manifest.base
        if base.bits_per_parameter is not None:
            verb = "would take" if base.simulated else "take"
            lines.append(
                f"base: {base.modules} linear layers quantized, whose codes and scales {verb} "
                f"{base.bits_per_parameter:.3f} bits a parameter"
            )
    training = result.training
    if training:
        speed = training["tokens_per_second"]
        lines.append(
            f"training: {len(training['steps'])} steps, {training['tokens']:,} tokens "
            f"({training['trained_tokens'] / training['tokens']:.0%} trained on), "
            + (f"{speed:,.0f} tokens/s, " if speed else "")
            + f"peak memory {training['peak_memory'] / 1e9:.2f} GB, optimizer {training['optim']}"
        )
        lines += _describe_memory(result, training["peak_memory"], training.get("paged_memory"))
    if result.folder.exists():  # not where another run's answers were judged
        lines.append(f"everything is in {result.folder}")
    return lines


def _describe_memory(result: CellResult, measured: int, paged: int | None) -> list[str]:
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
    on_gpu = result.manifest is not None and result.manifest.provenance.device not in ("cpu", None)
    remark = "" if on_gpu else ", which is all that the process had resident, libraries too"
    return [f"{predicted}, {measured / 1e9:.2f} GB measured{remark}"]


def show_result(result: CellResult) -> None:
    """Print a run's table, its cost, its folder and what to try next."""
    if result.before or result.after:
        say(build_cell_table(result))
    elif result.note:
        say(f"{result.model}: {result.note}")
    if result.win_rates:
        from qlora_repro.judge.win_rates import (
            build_win_rate_table,  # scipy, as in `compare_scores`
        )

        say(build_win_rate_table(result.win_rates, kind=result.judge))
    for line in describe_cost(result):
        say(line)
    if result.after:
        say("next: python run.py -m dtype=bf16,nf4,fp4 compares data types; seed=0,1,2 repeats")
