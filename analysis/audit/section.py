"""One part of an audit: a table, what must be said of it, and the same as plain facts for json."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.resampling import Estimate
from analysis.table import Table


@dataclass(frozen=True, kw_only=True)
class Section:
    """A finding. Where it could not be computed there is no table, and the notes say why."""

    title: str
    frame: pd.DataFrame | None = None  # cells that can be printed
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    headline: str = ""  # the finding in one line, for the summary; empty where it is not in it

    def table(self) -> Table:
        """Return the table; one without rows or columns where nothing could be computed."""
        frame = pd.DataFrame() if self.frame is None else self.frame
        return Table(title=self.title, frame=frame, notes=self.notes)

    def markdown(self) -> str:
        """Return the section as GitHub shows it."""
        if self.frame is None:
            return f"# {self.title}\n\n" + "".join(f"- {note}\n" for note in self.notes)
        return self.table().markdown()


def absent(title: str, why: str) -> Section:
    """Return a section that could not be computed from this file.

    >>> absent("By length", "no answer has a length").notes
    ['not computed: no answer has a length']
    """
    return Section(title=title, notes=[f"not computed: {why}"], facts={"not_computed": why})


def percent(found: Estimate) -> str:
    """Return a share with its interval, in percent."""
    return found.text(scale=100)


def elo(found: Estimate, *, sign: bool = False) -> str:
    """Return Elo with its interval, to whole points."""
    return found.text(digits=0, sign=sign)
