"""What the user sees: a live line in a terminal, plain lines in a pipe; errors on stderr."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

_plain_lines: list[bool] = []


def use_plain_lines() -> None:
    """Print lines only from now on: other processes write on this terminal too."""
    _plain_lines.append(True)


def interactive() -> bool:
    """Whether a person watches this process alone: a terminal, not a pipe."""
    return sys.stdout.isatty() and not _plain_lines


def open_closed_streams() -> None:
    """Send output nowhere that was closed, as by `>&-`.

    To be called first: a file that is opened takes the lowest number that is free, and what a
    library prints to a closed output would go into a file of ours.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115


def new_console(**how: Any) -> Console:
    """Return a console that prints what it is given: brackets in a text, as `[/INST]`, are text."""
    return Console(highlight=False, markup=False, **how)


def say(*what: Any) -> None:
    """Print text or a rich table; a line of text is never broken, a table fits its screen."""
    width = None if sys.stdout.isatty() else 160  # in a pipe, tables are not wrapped at 80
    text = all(isinstance(part, str) for part in what)
    new_console(width=width).print(*what, soft_wrap=text)


def right_aligned(*headings: str) -> list[Column]:
    """Return columns of numbers for a rich table."""
    return [Column(heading, justify="right") for heading in headings]


def print_error(text: str) -> None:
    """Print an error."""
    new_console(stderr=True, soft_wrap=True).print(f"error: {text}")


def note(text: str) -> None:
    """Print what a user should know although nothing went wrong."""
    say(f"note: {text}")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function (done, total) that shows how far a piece of work is; say what it took."""
    began = time.monotonic()
    if interactive():
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task("")
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        say(f"{what} ...")
        yield lambda done, total: None
    say(f"{what}: {time.monotonic() - began:.0f} s")
