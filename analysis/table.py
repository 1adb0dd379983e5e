"""A finished table: cells as text with notes below, and how it is printed and written."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from rich.table import Table as RichTable

from qlora_repro.store.integrity import write_atomic

LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
    }
)
MISSING = "missing"  # an absent score is said to be absent


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a builder returns: a frame whose cells can be printed, and what must be said of it."""

    title: str
    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)  # errata, stand-ins, how a column is computed
    runs: tuple[str, ...] = ()  # the folders of the runs behind it

    @property
    def has_results(self) -> bool:
        """Whether any cell is ours: a table of printed numbers alone has no results."""
        ours = [column for column in self.frame.columns if str(column).startswith("ours")]
        return not self.frame.empty and (not ours or bool(self.frame[ours].notna().any(axis=None)))

    @property
    def heads(self) -> list[str]:
        """The names of the columns; a table without results may have none."""
        return [str(column) for column in self.frame.columns]

    def to_rich(self) -> RichTable:
        """Return the table for a terminal; the notes are its caption."""
        rendered = RichTable(title=self.title, title_justify="left", caption_justify="left")
        rendered.caption = "\n".join(self.notes)
        for position, head in enumerate(self.heads or [""]):
            rendered.add_column(head, justify="left" if position == 0 else "right")
        for row in self.cell_texts():
            rendered.add_row(*row)
        return rendered

    def cell_texts(self) -> list[list[str]]:
        """Return the cells as they are printed."""
        rows = self.frame.astype(object).itertuples(index=False)
        return [[MISSING if pd.isna(cell) else str(cell) for cell in row] for row in rows]

    def to_markdown(self) -> str:
        """Return the table as GitHub shows it; title and notes alone where it has no columns."""
        escaped = [
            [cell.replace("|", r"\|") for cell in line] for line in (self.heads, *self.cell_texts())
        ]
        bars = [f"| {' | '.join(line)} |" for line in escaped]
        grid = [bars[0], "|" + " --- |" * len(self.heads), *bars[1:], ""] if self.heads else []
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([f"# {self.title}", "", *grid, *notes]) + "\n"

    def to_latex(self) -> str:
        """Return the table as a tabular of LaTeX with graphicx, its notes below.

        One that is wider than the text is made as small as it takes.
        """
        lines = [self.heads, *self.cell_texts()]
        head, *rows = [" & ".join(map(escape_latex, line)) + r" \\" for line in lines]
        columns = "l" + "r" * (len(self.heads) - 1)
        return "\n".join(
            [
                r"\begin{table}",
                rf"\caption{{{escape_latex(self.title)}}}",
                r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
                rf"\begin{{tabular}}{{{columns}}}",
                *(r"\hline", head, r"\hline", *rows, r"\hline", r"\end{tabular}}", r"\par"),
                *(rf"\footnotesize {escape_latex(note)}\par" for note in self.notes),
                r"\end{table}",
                "",
            ]
        )

    def write(self, folder: Path, name: str) -> None:
        """Write `<name>.md`, `<name>.csv` and `<name>.tex`."""
        write_atomic(folder / f"{name}.md", self.to_markdown())
        write_atomic(folder / f"{name}.csv", self.frame.to_csv(index=False))
        write_atomic(folder / f"{name}.tex", self.to_latex())


def escape_latex(text: str) -> str:
    """Return text as LaTeX prints it letter for letter.

    >>> escape_latex("50% of a_b")
    '50\\\\% of a\\\\_b'
    """
    return text.translate(LATEX)


def format_signed(difference: float, digits: int) -> str:
    """Return a difference with its sign, and a plain zero.

    >>> format_signed(-0.04, 1), format_signed(-0.06, 1)
    ('+0.0', '-0.1')
    """
    return f"{round(difference, digits) + 0.0:+.{digits}f}"


def format_interval(
    interval: tuple[float, float], digits: int, *, signed: bool = False, scale: float = 1
) -> str:
    """Return the ends of an interval in brackets.

    >>> format_interval((0.12, 3.0), 1), format_interval((-0.01, 0.02), 1, signed=True, scale=100)
    ('[0.1, 3.0]', '[-1.0, +2.0]')
    """
    sign = "+" if signed else ""
    low, high = (scale * end for end in interval)
    return f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
