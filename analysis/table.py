"""A finished table: cells as text, footnotes, and its three forms."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from rich.table import Table as RichTable

from qlora_repro.store.runs import write_whole

MISSING = "missing"  # an absent score is said to be absent


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a builder returns: a frame whose cells can be printed, and what must be said of it."""

    title: str
    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)  # errata, stand-ins, how a column is computed

    def rich(self) -> RichTable:
        """Return the table for a terminal; the notes are its caption."""
        made = RichTable(title=self.title, title_justify="left", caption_justify="left")
        made.caption = "\n".join(self.notes)
        for position, column in enumerate(self.frame.columns):
            made.add_column(str(column), justify="left" if position == 0 else "right")
        for row in self.texts():
            made.add_row(*row)
        return made

    def texts(self) -> list[list[str]]:
        """Return the cells as they are printed."""
        rows = self.frame.astype(object).itertuples(index=False)
        return [[MISSING if pd.isna(cell) else str(cell) for cell in row] for row in rows]

    def markdown(self) -> str:
        """Return the table as GitHub shows it."""
        lines = [[str(column) for column in self.frame.columns], *self.texts()]
        escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
        bars = [f"| {' | '.join(line)} |" for line in escaped]
        rule = "|" + " --- |" * len(self.frame.columns)
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([f"# {self.title}", "", bars[0], rule, *bars[1:], "", *notes]) + "\n"

    def write(self, folder: Path, name: str) -> None:
        """Write `<name>.md` and `<name>.csv`."""
        write_whole(folder / f"{name}.md", self.markdown())
        write_whole(folder / f"{name}.csv", self.frame.to_csv(index=False))
