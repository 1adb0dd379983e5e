"""One module a figure: `draw(root)` reads a results folder and returns a matplotlib Figure."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

FIGURES: dict[str, Callable[[Path], Figure]] = {}
