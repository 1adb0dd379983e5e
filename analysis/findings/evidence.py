"""What the seven findings share: criteria fixed beforehand, evidence, and how it is gathered."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from analysis.artifacts.runs import (
    EvaluatedRun,
    RunsBySeed,
    group_runs,
    runs_by_seed,
    score_matrices,
    shared_training_settings,
)
from analysis.paper_tables import LLAMA_MODELS, load_grid
from qlora_repro.config.paths import CRITERIA
from qlora_repro.config.registry import FULL_PRECISION
from qlora_repro.records import PERPLEXITY
from qlora_repro.stats.estimates import Noise, estimate_mean, levels_with_repeats
from qlora_repro.stats.hypothesis_tests import (
    Comparison,
    ComparisonInfo,
    MissingComparison,
    Part,
    assess_equivalence,
    assess_larger_spread,
    assess_paired_superiority,
)
from qlora_repro.stats.intervals import Array

CROSSED_TEST = "t over seeds and questions"


@dataclass
class Hypothesis:
    """A finding of the paper."""

    finding: str  # as the paper has it, in our words
    hypothesis: str  # as it is tested


@dataclass
class Margin:
    """The half-width of what counts as equal."""

    value: float
    unit: str
    reason: str


@dataclass
class Benchmark:
    """A metric of a task."""

    task: str
    name: str


@dataclass
class MarginScore(Benchmark):
    """A score of our runs, and the margin that it is held to."""

    margin: str  # a key of margins
    scale: float  # brings a record to the margin's unit; negative where less is better


@dataclass
class Criteria:
    """What the findings are held to: experiments/findings/criteria.yaml, which has the values."""

    alpha: float
    power: float
    resamples: int
    fewest_flipped: int
    fewest_seeds: int
    seed: int
    same_order: float
    hypotheses: list[Hypothesis]  # of findings 1 to 7
    margins: dict[str, Margin]
    scores: list[MarginScore]
    factors: dict[str, str]
    accuracy_benchmark: Benchmark


def load_criteria(path: Path = CRITERIA) -> Criteria:
    """Read the criteria; a key that is unknown or not there is an error."""
    merged = OmegaConf.merge(OmegaConf.structured(Criteria), OmegaConf.load(path))
    return cast(Criteria, OmegaConf.to_object(merged))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All comparisons that one source, the paper or our runs, has on one finding."""

    finding: int
    parts: Sequence[Part]
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> list[Comparison]:
        """The comparisons that have data and count."""
        return [p for p in self.parts if isinstance(p, Comparison) and p.about.required]

    @property
    def missing(self) -> list[MissingComparison]:
        """The comparisons that count and have no data."""
        return [p for p in self.parts if isinstance(p, MissingComparison) and p.required]

    @property
    def p_for(self) -> float:
        """The p of the whole finding: all parts must hold, so it is their largest.

        A part without data holds nothing: 1.
        """
        if self.missing or not self.measured:
            return 1.0
        return max(part.supports for part in self.measured)

    @property
    def p_against(self) -> float:
        """The p that some part fails: the smallest, times how many there are."""
        contradicting = [part.contradicts for part in self.measured]
        return min(1.0, min(contradicting) * len(contradicting)) if contradicting else 1.0

    def detectable(self, part: Comparison, criteria: Criteria) -> float | None:
        """Return the effect of a part at which the whole finding is found with the power asked.

        It is for the strictest of Holm's steps, and for all parts at once; None is out of reach.
        """
        alpha = criteria.alpha / len(criteria.hypotheses)
        return part.detect(alpha, 1 - (1 - criteria.power) / max(1, len(self.measured)))


def assess_pairs(
    differences: Array, about: ComparisonInfo, criteria: Criteria, *, floor: float | None = None
) -> Comparison:
    """Ask whether paired differences, (N,), are above zero, as the criteria have it."""
    return assess_paired_superiority(
        differences,
        about,
        resamples=criteria.resamples,
        fewest=criteria.fewest_flipped,
        seed=criteria.seed,
        floor=floor,
    )


TABLE5 = "table5_mmlu_by_dataset"


@dataclass(frozen=True, kw_only=True)
class PrintedScores:
    """Scores that one table of the paper prints, a row a method, in the cells that are compared."""

    artifact: str
    columns: tuple[str, ...]
    of: str  # what the n of a comparison counts
    margin: str  # a key of margins
    noise: Callable[[], Noise]

    def row(self, method: str) -> Array:
        """Return the scores of one method, (N,)."""
        return printed_row(self.artifact, method, self.columns)

    def assess_gains(
        self, part: str, gains: Array, criteria: Criteria, *, notes: tuple[str, ...] = ()
    ) -> Comparison:
        """Ask whether differences of rows are above zero."""
        about = replace(self._describe(part, gains, criteria), notes=notes)
        return assess_pairs(gains, about, criteria, floor=self.noise().floor(len(gains)))

    def assess_equivalence(self, part: str, differences: Array, criteria: Criteria) -> Comparison:
        """Ask whether differences of rows are within the margin."""
        return assess_equivalence(
            estimate_mean(differences),
            self._describe(part, differences, criteria),
            margin=criteria.margins[self.margin].value,
            test="paired t",
            floor=self.noise().floor(len(differences)),
        )

    def _describe(self, part: str, differences: Array, criteria: Criteria) -> ComparisonInfo:
        unit = criteria.margins[self.margin].unit
        return ComparisonInfo(part=part, unit=unit, n=len(differences), of=self.of)


def printed_row(artifact: str, row: str, columns: Sequence[str] | None = None) -> Array:
    """Return printed cells of one row, all that are there or the named ones in their order."""
    cells = load_grid(artifact).loc[row]
    named = cells.dropna() if columns is None else cells[list(columns)]
    return named.to_numpy(np.float64)


def printed_mmlu_noise() -> Noise:
    """Return how far cells that the paper prints twice, in Tables 4 and 5, are apart."""
    table5 = load_grid(TABLE5)
    again = [table5.loc[data, model] for model, data in map(str.split, MMLU.columns)]
    apart = MMLU.row("nf4 + dq") - np.array(again, dtype=np.float64)
    return Noise(variance=float((apart**2).mean()), df=len(apart))


def printed_rouge_noise() -> Noise:
    """Return how far 16-bit full fine-tuning is from its replication, in Table 3."""
    apart = ROUGE.row("bf16 published") - ROUGE.row("bf16 replication")
    apart = apart[~np.isnan(apart)]
    return Noise(variance=float((apart**2).mean()), df=len(apart))


MMLU = PrintedScores(
    artifact="table4_mmlu_by_dtype",
    columns=tuple(f"{model} {data}" for model in LLAMA_MODELS for data in ("alpaca", "flan_v2")),
    of="cells of Table 4",
    margin="mmlu",
    noise=printed_mmlu_noise,
)
ROUGE = PrintedScores(
    artifact="table3_glue_superni_by_dtype",
    columns=("t5_80m", "t5_250m", "t5_780m", "t5_3b", "t5_11b"),
    of="sizes of T5",
    margin="rouge",
    noise=printed_rouge_noise,
)
POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}  # of the system that is shown first
RELEASED_JUDGE = "gpt-4"
NOT_LANGUAGE_MODELS = ("reference",)  # a judge that compares with a right answer
BILLIONS = ("7b", "13b", "33b", "65b")  # sizes of LLaMA in the names of released systems


def verdicts_on_runs(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return the verdicts on systems that are runs; those on the paper's are left out."""
    if verdicts.empty:
        return verdicts
    return verdicts[(verdicts["run_first"] != "") | (verdicts["run_second"] != "")]


def score_systems(verdicts: pd.DataFrame, *, names: str = "") -> pd.DataFrame:
    """Return a row a system and verdict: judge, question, system, points; unread ones left out.

    Args:
        verdicts: As qlora_repro.store.verdicts has them.
        names: What names a system; "" for its name, "run_" for the run that it is.
    """
    read = verdicts[verdicts["verdict"].notna()]
    won = read["verdict"].astype("str").map(POINTS).astype("float64")
    sides = [
        read[["judge", "question"]].assign(system=read[names + side].astype("str"), points=points)
        for side, points in (("first", won), ("second", 1 - won))
    ]
    return pd.concat(sides, ignore_index=True)


def mean_points(verdicts: pd.DataFrame, *, names: str = "") -> pd.Series:
    """Return system -> mean points over verdicts; arguments as in `score_systems`."""
    if verdicts.empty:
        return pd.Series(dtype="float64")
    return score_systems(verdicts, names=names).groupby("system")["points"].mean()


def score_out_of_ten(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return GPT-4's mean score of a system on a question over both orders, (Q, systems)."""
    scored = verdicts[(verdicts["protocol"] == "score10") & (verdicts["judge"] == RELEASED_JUDGE)]
    sides = [
        scored[["question", side, f"score_{side}"]].set_axis(
            ["question", "system", "score"], axis=1
        )
        for side in ("first", "second")
    ]
    typed = pd.concat(sides).astype({"question": "str", "system": "str", "score": np.float64})
    return typed.pivot_table("score", index="question", columns="system")


def assess_chat_scores(
    differences: pd.Series, part: str, criteria: Criteria, *, required: bool = True, note: str = ""
) -> Part:
    """Ask whether differences of chat scores, one a question, are above zero."""
    values = differences.dropna().to_numpy(np.float64)
    about = ComparisonInfo(part=part, unit="points of ten", n=len(values), of="questions")
    about = replace(about, required=required, notes=(note,) if note else ())
    return assess_pairs(values, about, criteria)


def _select_tuned(dtypes: Sequence[str], dq: bool, target: str) -> Callable[[EvaluatedRun], bool]:
    return lambda run: (
        run.setting("dtype.name") in dtypes
        and run.setting("dq") is dq
        and run.setting("lora.target") == target
        and not run.setting("lora.layers")
    )


QLORA = "NF4 + DQ"
METHODS = {
    QLORA: _select_tuned(["nf4"], True, "all"),
    "16-bit LoRA": _select_tuned(FULL_PRECISION, False, "all"),
    "full fine-tuning": _select_tuned(FULL_PRECISION, False, "none"),
    "FP4 + DQ": _select_tuned(["fp4"], True, "all"),
}


@dataclass(frozen=True, kw_only=True)
class TunedMethods:
    """QLoRA and its rivals on the same data and steps."""

    label: str  # model and data
    runs: Mapping[str, RunsBySeed]  # by method

    def compare_scores(
        self, question: str, methods: Sequence[str], criteria: Criteria
    ) -> Iterator[tuple[MarginScore, ComparisonInfo, list[Array]]]:
        """Yield each score of the methods, on the seeds and questions that all of them have.

        The arrays are (S, Q) a method, in the unit of the score's margin.
        """
        for score in criteria.scores:
            runs = [self.runs[method] for method in methods]
            matrices = [m * score.scale for m in score_matrices(runs, score.task, score.name)]
            if matrices:
                seeds, questions = matrices[0].shape
                about = ComparisonInfo(
                    part=f"{question}, {self.label}, {score.task}",
                    unit=criteria.margins[score.margin].unit,
                    n=questions,
                    of="windows of text" if score.task == PERPLEXITY else "questions",
                    seeds=seeds,
                )
                yield score, about, matrices


def group_tuned_methods(runs: Sequence[EvaluatedRun]) -> list[TunedMethods]:
    """Return the models and data on which QLoRA and another method were tuned alike."""
    groups = group_runs(
        [run for run in runs if run.is_tuned],
        lambda run: [run.setting("model"), run.setting("data"), shared_training_settings(run)],
    )
    tuned = []
    for group in groups:
        by_method = {
            method: runs_by_seed([run for run in group if select(run)])
            for method, select in METHODS.items()
        }
        by_method = {method: by_seed for method, by_seed in by_method.items() if by_seed}
        if QLORA in by_method and len(by_method) > 1:
            label = f"{group[0].model}, {group[0].setting('data.name')}"
            tuned.append(TunedMethods(label=label, runs=by_method))
    return tuned


@dataclass(frozen=True, kw_only=True)
class FactorGrid:
    """Runs of every combination of two factors' levels, with the same seeds in each."""

    rows: list[str]
    columns: list[str]
    runs: Mapping[tuple[str, str], RunsBySeed]
    seeds: list[int]

    def is_complete(self, criteria: Criteria) -> bool:
        """Whether both factors vary, with as many seeds as the criteria ask."""
        varies = min(len(self.rows), len(self.columns)) > 1
        return varies and len(self.seeds) >= criteria.fewest_seeds

    def score_cells(self, criteria: Criteria) -> Iterator[tuple[MarginScore, Array]]:
        """Yield each score, (rows, columns, S, Q), in the unit of its margin."""
        cells = [self.runs[row, column] for row in self.rows for column in self.columns]
        for score in criteria.scores:
            matrices = score_matrices(cells, score.task, score.name)
            if matrices:
                shape = (len(self.rows), len(self.columns), *matrices[0].shape)
                yield score, np.array(matrices).reshape(shape) * score.scale

    def any_run(self, row: str, column: str) -> EvaluatedRun:
        """Return one of the runs of a cell."""
        return next(iter(self.runs[row, column].values()))


def build_grid(
    runs: Sequence[EvaluatedRun],
    row: Callable[[EvaluatedRun], str],
    column: Callable[[EvaluatedRun], str],
) -> FactorGrid:
    """Return the grid of the rows that have every column; of two equal runs the later counts."""
    cells: dict[tuple[str, str], dict[int, EvaluatedRun]] = {}
    for run in runs:
        cells.setdefault((row(run), column(run)), {})[int(run.setting("seed"))] = run
    columns = list(dict.fromkeys(name for _, name in cells))
    rows = list(dict.fromkeys(name for name, _ in cells))
    rows = [name for name in rows if all((name, other) in cells for other in columns)]
    cells = {key: by_seed for key, by_seed in cells.items() if key[0] in rows}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in cells.values()))) if cells else []
    return FactorGrid(rows=rows, columns=columns, runs=cells, seeds=seeds)


def compare_spreads(
    grid: FactorGrid,
    names: tuple[str, str],
    model: str,
    criteria: Criteria,
    factors: Mapping[str, Sequence[str]] | None = None,
) -> list[Part]:
    """Ask of each score whether it is spread further between rows than between columns.

    Args:
        grid: A complete one.
        names: What rows and columns are.
        model: Its name.
        criteria: With the scores and their margins.
        factors: What the rows are made of: factor -> its level in each row.
    """
    parts: list[Part] = []
    for score, cells in grid.score_cells(criteria):
        means = cells.mean(axis=-1)  # (rows, columns, S)
        about = ComparisonInfo(
            part=f"spread between {names[0]} over that between {names[1]}, {model}, {score.task}",
            unit=f"{criteria.margins[score.margin].unit}, sd",
            n=means.size,
            of="runs",
            seeds=means.shape[-1],
            notes=(describe_variance(means, names) + describe_row_factors(means, factors or {}),),
        )
        rows, columns = (levels_with_repeats(means, axis) for axis in (0, 1))
        parts.append(assess_larger_spread(rows, columns, about))
    return parts


def describe_variance(means: Array, names: tuple[str, str]) -> str:
    """Return which shares of the variance of runs, (rows, columns, S), factors and seeds have.

    >>> means = np.array([1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0]).reshape(2, 2, 2)
    >>> describe_variance(means, ("a", "b"))
    'of the variance of runs: a 100%, b 0%, both together 0%, seeds 0%'
    """
    total = float(((means - means.mean()) ** 2).sum()) or 1.0
    rows = means.mean(axis=(1, 2), keepdims=True) - means.mean()
    columns = means.mean(axis=(0, 2), keepdims=True) - means.mean()
    both = means.mean(axis=2, keepdims=True) - means.mean() - rows - columns
    shares = [
        means.size / part.size * float((part**2).sum()) / total for part in (rows, columns, both)
    ]
    labelled = zip((*names, "both together", "seeds"), (*shares, 1 - sum(shares)), strict=True)
    shown = ", ".join(f"{name} {abs(share):.0%}" for name, share in labelled)
    return f"of the variance of runs: {shown}"


def describe_row_factors(means: Array, factors: Mapping[str, Sequence[str]]) -> str:
    """Return which shares of the variance the factors have that rows are made of.

    "" where rows differ in one factor alone, or not every level goes with every other as often.

    >>> means = np.array([0.0, 0.0, 2.0, 2.0]).reshape(4, 1, 1)
    >>> describe_row_factors(means, {"quality": "0101", "suitability": "aabb"})
    '; of kinds, quality 0%, suitability 100%, both together 0%'
    """
    varied = {name: levels for name, levels in factors.items() if len(set(levels)) > 1}
    combined = list(zip(*varied.values(), strict=True))
    combinations = math.prod(len(set(levels)) for levels in varied.values())
    if len(varied) < 2 or len(set(combined)) != len(combined) or len(combined) != combinations:
        return ""
    rows = means.mean(axis=(1, 2)) - means.mean()  # (rows,)
    weight = means.size / len(rows) / (float(((means - means.mean()) ** 2).sum()) or 1.0)
    shares = {}
    for name, levels in varied.items():
        effects = pd.Series(rows).groupby(list(levels)).transform("mean")
        shares[name] = weight * float(np.square(effects).sum())
    shares["both together"] = weight * float(np.square(rows).sum()) - sum(shares.values())
    return "; of kinds, " + ", ".join(f"{name} {abs(share):.0%}" for name, share in shares.items())
