"""python -m analysis COMMAND: tables, figures and audits from stored results, without a GPU stack.

python -m analysis COMMAND --help says what each command takes.
"""

import argparse
import contextlib
import difflib
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from analysis.gpu_report import NONE_YET, REPORTS, WIDTH, find_reports, read_report, render_report
from qlora_repro.config.paths import RESULTS
from qlora_repro.console import interactive, say, sentence
from qlora_repro.errors import ConfigError, QloraError, StoreError
from qlora_repro.store.integrity import write_whole

if TYPE_CHECKING:
    from analysis.build import Rebuilt

OUT = Path("outputs/analysis")
RUNS = Path("outputs/results")  # what status looks at: where runs go by default
REFRESH = 2.0  # s
Made = TypeVar("Made")  # a table or a figure


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


def tables(asked: argparse.Namespace) -> None:
    """Print tables, and write each as markdown, csv and LaTeX."""
    from analysis.tables import TABLES

    for name, table in _made(asked, TABLES):
        say(table.rich())
        table.write(asked.out, name)
    say(f"tables lie in {asked.out}")


def figures(asked: argparse.Namespace) -> None:
    """Draw figures as png."""
    from analysis.figures import FIGURES

    for name, figure in _made(asked, FIGURES):
        asked.out.mkdir(parents=True, exist_ok=True)
        figure.savefig(asked.out / f"{name}.png", dpi=200)
        say(f"{asked.out / name}.png")


def _made(
    asked: argparse.Namespace, known: Mapping[str, Callable[[Path], Made]]
) -> Iterator[tuple[str, Made]]:
    """Yield what was asked for; where nothing was named, what lacks results is left out and told.

    Raises StoreError for one that was named and lacks them.
    """
    for name in chosen(asked.names, known):
        try:
            made = known[name](asked.results)
        except StoreError as error:
            if asked.names:
                raise
            say(f"left out: {name}: {error}")
            continue
        yield name, made


def everything(asked: argparse.Namespace) -> None:
    """Rebuild every table and figure that has results, the audit, the verdicts and the report."""
    from analysis import build

    made = build.rebuild(_there(asked.results))
    for line in build.write(made, asked.out):
        say(line)
    _report(made, asked.out)


def report(asked: argparse.Namespace) -> None:
    """Write one page that holds all of it, for a browser."""
    from analysis import build

    _report(build.rebuild(_there(asked.results)), asked.out)


def _report(made: "Rebuilt", out: Path) -> None:
    from analysis.report.render import write_page

    for name, why in made.left_out.items():
        say(f"left out: {name}: {why}")
    write_page(made, out / "report.html")
    say(
        f"{len(made.tables)} tables, {len(made.figures)} figures, {len(made.audits)} audits; "
        f"{len(made.left_out)} left out for lack of results"
    )
    say(f"{out / 'report.html'}: open it in a browser")


def _there(results: Path) -> Path:
    """Return the folder; one that was named and is not there is refused, the default is empty."""
    if results != RESULTS and not results.is_dir():
        raise StoreError(f"--results {results} is not a folder; name one that runs were written to")
    return results


def audit(asked: argparse.Namespace) -> None:
    """Say how far judges' biases reach, in the released verdicts or in a file of verdicts."""
    from analysis.judge_audit.report import audit as run

    run(asked.ratings, asked.benchmark, asked.out)


def claims(asked: argparse.Namespace) -> None:
    """Give a verdict on each of the paper's seven findings, from its numbers and from our runs."""
    from analysis.findings.report import claims as run

    there = asked.results.is_dir() or asked.results != RESULTS
    run(asked.results if there else None, asked.out)


def import_release(asked: argparse.Namespace) -> None:
    """Rebuild the released verdicts from a checkout of the authors' repository."""
    from analysis.release import rebuild

    for line in rebuild(asked.checkout, asked.out):
        say(line)


def publish(asked: argparse.Namespace) -> None:
    """Copy finished runs as evidence: every record and manifest, no weights, text by block."""
    from analysis.publish import publish as run

    for line in run(asked.results, asked.out):
        say(line)


def status(asked: argparse.Namespace) -> None:
    """Show what each run is doing, once or, with `watch`, until Ctrl-C."""
    from analysis.status import runs, table

    watch = bool(asked.names) and chosen(asked.names, ["watch"]) == ["watch"]
    if not watch:
        say(table(runs(asked.results)))
        return
    from rich.live import Live

    with (
        Live(table(runs(asked.results)), screen=interactive()) as view,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while True:
            time.sleep(REFRESH)
            view.update(table(runs(asked.results)), refresh=True)


def gpu(asked: argparse.Namespace) -> None:
    """Show what make gpu-report measured, a card after the other."""
    damaged: list[StoreError] = []
    paths = find_reports(asked.results)
    for path in paths:
        try:
            measured = read_report(path)
        except StoreError as error:
            damaged.append(error)
            continue
        say(render_report(measured, WIDTH))
        written = asked.out / f"gpu_{path.parent.name or 'report'}.md"
        write_whole(written, render_report(measured))
        say(f"{written}: the same, its tables whole")
    if not paths:
        say(NONE_YET)
    if damaged:
        raise StoreError("; ".join(map(str, damaged)))


COMMANDS = (
    *(everything, report, tables, figures, audit, claims, publish, import_release, status, gpu),
)


def parser() -> argparse.ArgumentParser:
    """Return the command line: a command, and what it takes."""
    made = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for run in COMMANDS:
        name = {"everything": "all"}.get(run.__name__, run.__name__.replace("_", "-"))
        text = str(run.__doc__)
        one = commands.add_parser(name, help=text.rstrip("."), description=text)
        one.set_defaults(run=run)
        if run is not status:
            to = RESULTS if run is publish else OUT
            one.add_argument("--out", type=Path, default=to, help="default: %(default)s")
        if run not in (audit, import_release):
            there = {status: RUNS, publish: RUNS, gpu: REPORTS}.get(run, RESULTS)
            one.add_argument("--results", type=Path, default=there, help="default: %(default)s")
        if run in (tables, figures):
            one.add_argument("names", nargs="*", metavar="NAME", help="default: all of them")
    took = commands.choices
    took["audit"].add_argument(
        "--ratings", type=Path, metavar="FILE", help="verdicts, csv; default: the released ones"
    )
    took["audit"].add_argument("--benchmark", metavar="NAME", help="vicuna, oa; default: all")
    took["import-release"].add_argument("checkout", type=Path, help="its folder")
    took["status"].add_argument(
        "names", nargs="*", metavar="watch", help="go on until Ctrl-C; default: show it once"
    )
    return made


def main(words: Sequence[str]) -> int:
    """Run one command; return its exit code, and put what went wrong in one sentence."""
    asked = parser().parse_args(words)
    try:
        asked.run(asked)
    except QloraError as error:
        sentence(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
