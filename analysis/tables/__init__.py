"""One module a table of the paper: `build(root)` reads a results folder and returns a Table."""

from collections.abc import Callable
from pathlib import Path

from analysis.table import Table

TABLES: dict[str, Callable[[Path], Table]] = {}
