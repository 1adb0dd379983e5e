"""A table or figure of the paper as data: its printed cells, and where a run's scores go in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from analysis.findings.runs import Run
from analysis.paper_tables import printed
from qlora_repro.records import LOSS, PERPLEXITY

Key = tuple[str, str]  # row, column
MARGINS = ("mean", "average")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric by question, and what brings its mean to the unit of a table."""

    task: str
    name: str
    unit: str
    scale: float
    digits: int


MMLU = Score(task="mmlu", name="acc", unit="% MMLU", scale=100, digits=1)
ROUGE = Score(task="rouge", name="rougeL", unit="RougeL", scale=100, digits=1)
HELD_OUT = Score(task="held_out", name="acc", unit="% accuracy", scale=100, digits=1)
STAND_INS = (  # what is asked where the paper's benchmark is not at hand
    Score(task="procedural_exact", name="exact_match", unit="% exact", scale=100, digits=1),
    Score(task="procedural_mc", name="acc", unit="% choice", scale=100, digits=1),
    ROUGE,
    Score(task=PERPLEXITY, name=LOSS, unit="nats a token", scale=1, digits=3),
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A cell that a score of a run may be of."""

    row: str
    column: str
    score: Score


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What one table needs beside the machinery.

    Runs are compared with each other where they agree in every setting that is not in `varies`.
    """

    stem: str  # of its csv and its script
    title: str
    heads: Key  # what rows and columns are
    places: Callable[[Run], Sequence[Place]]
    varies: tuple[str, ...]  # dotted settings that rows differ in
    models: tuple[str, ...]  # the paper's; every other stands in
    scores: tuple[str, ...]  # tasks that the paper's cells are of
    base: Callable[[Sequence[str]], str | None]  # the row that the others are set against
    paper: Callable[[], Mapping[Key, float]]
    presets: tuple[str, ...]
    digits: int
    notes: tuple[str, ...] = ()
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)  # column -> what it averages


def cells(stem: str) -> dict[Key, float]:
    """Return (row, column) -> printed value, in the table's order."""
    frame = printed(stem)
    keys = zip(frame["row"], frame["column"], strict=True)
    return dict(zip(keys, frame["value"].astype(float), strict=True))


def always(row: str) -> Callable[[Sequence[str]], str | None]:
    """Return a rule that sets every row against this one, where it is there."""
    return lambda rows: row if row in rows else None


def least(rows: Sequence[str]) -> str | None:
    """Return the smallest of rows that are numbers.

    >>> least(["64", "8", "16"])
    '8'
    """
    return min(rows, key=float, default=None)


def offered(row: str, column: str, scores: Sequence[Score]) -> list[Place]:
    """Return a place a score, in one cell."""
    return [Place(row=row, column=column, score=score) for score in scores]
