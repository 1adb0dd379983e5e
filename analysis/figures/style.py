"""How figures look: a colour and a mark for each data type, told apart in black and white too."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which the colour-blind can tell apart
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PINK, GREY = "#0072B2", "#D55E00", "#CC79A7", "#777777"
TYPES: dict[str, tuple[str, str]] = {  # data type -> (colour, marker)
    "nf4": (BLUE, "o"),
    "af4": (SKY, "D"),
    "fp4": (RED, "s"),
    "fp4_e2m1": (ORANGE, "^"),
    "fp4_e3m0": (PINK, "v"),
    "int4": (GREEN, "P"),
    "int8": (GREY, "X"),
    "bf16": (BLACK, "*"),
    "fp32": (BLACK, "h"),
}


def look(dtype: str) -> tuple[str, str]:
    """Return (colour, marker) of a data type; grey for one that has none of its own.

    >>> look("nf4")
    ('#0072B2', 'o')
    """
    return TYPES.get(dtype, (GREY, "."))


def page(*, width: float = 6.5, height: float = 4.0) -> Figure:
    """Return an empty figure, sizes in inches; 6.5 is the width of a printed page's text."""
    return Figure(figsize=(width, height), layout="constrained")


def plain(axes: Axes) -> Axes:
    """Take away the frame's upper and right side, and draw a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes
