"""python -m analysis tables|figures [NAME ...] rebuilds results; status [watch] shows the runs."""

import argparse
import contextlib
import difflib
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from qlora_repro.console import interactive, say, sentence
from qlora_repro.errors import ConfigError, QloraError

RESULTS = Path(__file__).parent / "results"
OUT = Path("outputs/analysis")
RUNS = Path("outputs/results")  # what status looks at: where runs go by default
REFRESH = 2.0  # s


def chosen(asked: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the names asked for, all of them when none is; ConfigError for one there is not.

    >>> chosen(["b"], ["a", "b"]), chosen([], ["a", "b"])
    (['b'], ['a', 'b'])
    """
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"there is nothing named {name!r}; {hint}there is {', '.join(known) or 'nothing'}"
            )
    return list(asked or known)


def tables(asked: Sequence[str], results: Path, out: Path) -> None:
    """Print tables, and write each as markdown and csv."""
    from analysis.tables import TABLES

    for name in chosen(asked, TABLES):
        table = TABLES[name](results)
        say(table.rich())
        table.write(out, name)
    say(f"tables lie in {out}")


def figures(asked: Sequence[str], results: Path, out: Path) -> None:
    """Draw figures as png."""
    from analysis.figures import FIGURES

    for name in chosen(asked, FIGURES):
        out.mkdir(parents=True, exist_ok=True)
        FIGURES[name](results).savefig(out / f"{name}.png", dpi=200)
        say(f"{out / name}.png")


def status(asked: Sequence[str], results: Path, out: Path) -> None:
    """Show what each run is doing, once or, with `watch`, until Ctrl-C."""
    from analysis.status import runs, table

    watch = bool(asked) and chosen(asked, ["watch"]) == ["watch"]
    if not watch:
        say(table(runs(results)))
        return
    from rich.live import Live

    with (
        Live(table(runs(results)), screen=interactive()) as view,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while True:
            time.sleep(REFRESH)
            view.update(table(runs(results)), refresh=True)


COMMANDS: dict[str, Callable[[Sequence[str], Path, Path], None]] = {
    "tables": tables,
    "figures": figures,
    "status": status,
}


def main(words: Sequence[str]) -> int:
    """Run one command; return its exit code, and put what went wrong in one sentence."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all of them")
    parser.add_argument("--results", type=Path, help=f"default: {RUNS} for status, else {RESULTS}")
    parser.add_argument("--out", type=Path, default=OUT, help="default: %(default)s")
    asked = parser.parse_args(words)
    try:
        results = asked.results or (RUNS if asked.command == "status" else RESULTS)
        COMMANDS[asked.command](asked.names, results, asked.out)
    except QloraError as error:
        sentence(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
