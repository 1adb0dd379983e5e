"""python -m analysis COMMAND: tables, figures and audits from stored results, without a GPU stack.

python -m analysis COMMAND --help says what each command takes. A command imports what it needs when
it runs.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qlora_repro.config.messages import nearest_names
from qlora_repro.config.paths import EVIDENCE, GPU_REPORTS
from qlora_repro.console import interactive, new_console, open_closed_streams, print_error, say
from qlora_repro.errors import ConfigError, QloraError, StoreError

if TYPE_CHECKING:
    from analysis.build import AnalysisOutputs

OUT = Path("outputs/analysis")
RUNS = Path("outputs/results")  # what status looks at: where runs go by default
REFRESH_SECONDS = 2.0


def select_names(requested: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the requested names, all known ones where none is; ConfigError for an unknown one.

    >>> select_names(["b"], ["a", "b"]), select_names([], ["a", "b"])
    (['b'], ['a', 'b'])
    """
    for name in requested:
        if name not in known:
            near = nearest_names(name, known)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"there is nothing named {name!r}; {hint}there is {', '.join(known) or 'nothing'}"
            )
    return list(requested or known)


def tables(arguments: argparse.Namespace) -> None:
    """Print tables, and write each as markdown, csv and LaTeX."""
    from analysis.tables import TABLES, build_table

    for name in select_names(arguments.names, TABLES):
        with _skipping_unless_named(name, arguments.names):
            table = build_table(name, arguments.results)
            say(table.to_rich())
            table.write(arguments.out, name)
    say(f"tables are in {arguments.out}")


def figures(arguments: argparse.Namespace) -> None:
    """Draw figures as png."""
    from analysis.figures import FIGURES, draw_figure

    for name in select_names(arguments.names, FIGURES):
        with _skipping_unless_named(name, arguments.names):
            figure = draw_figure(name, arguments.results)
            arguments.out.mkdir(parents=True, exist_ok=True)
            figure.savefig(arguments.out / f"{name}.png", dpi=200)
            say(f"{arguments.out / name}.png")


@contextlib.contextmanager
def _skipping_unless_named(name: str, requested: Collection[str]) -> Iterator[None]:
    """Skip what lacks results, and say so; where it was named, its StoreError is raised."""
    try:
        yield
    except StoreError as error:
        if requested:
            raise
        say(f"left out: {name}: {error}")


def everything(arguments: argparse.Namespace) -> None:
    """Rebuild every table and figure that has results, the audit, the verdicts and the report."""
    from analysis import build

    outputs = build.build_outputs(_existing(arguments.results))
    for line in build.write_outputs(outputs, arguments.out):
        say(line)
    _write_report(outputs, arguments.out)


def report(arguments: argparse.Namespace) -> None:
    """Write one page that holds all of it, for a browser."""
    from analysis import build

    _write_report(build.build_outputs(_existing(arguments.results)), arguments.out)


def _write_report(outputs: "AnalysisOutputs", out: Path) -> None:
    from analysis.report.page import write_page

    for name, reason in outputs.skipped.items():
        say(f"left out: {name}: {reason}")
    write_page(outputs, out / "report.html")
    say(
        f"{len(outputs.tables)} tables, {len(outputs.figures)} figures, {len(outputs.audits)} "
        f"audits; {len(outputs.skipped)} left out for lack of results"
    )
    say(f"{out / 'report.html'}: open it in a browser")


def _existing(results: Path) -> Path:
    """Return the folder; one that was named and is not there is refused, the default is empty."""
    if results != EVIDENCE and not results.is_dir():
        raise StoreError(f"--results {results} is not a folder; name one that runs were written to")
    return results


def run_audit(arguments: argparse.Namespace) -> None:
    """Say how far judges' biases reach, in the released verdicts or in a file of verdicts."""
    from analysis.judge_audit.report import run_audit

    run_audit(arguments.ratings, arguments.benchmark, arguments.out)


def claims(arguments: argparse.Namespace) -> None:
    """Give a verdict on each of the paper's seven findings, from its numbers and from our runs."""
    from analysis.findings.conclusions import report_findings

    exists = arguments.results.is_dir() or arguments.results != EVIDENCE
    report_findings(arguments.results if exists else None, arguments.out)


def import_release(arguments: argparse.Namespace) -> None:
    """Rebuild the released verdicts from a checkout of the authors' repository."""
    from analysis.release import rebuild_release

    for line in rebuild_release(arguments.checkout, arguments.out):
        say(line)


def publish(arguments: argparse.Namespace) -> None:
    """Copy finished runs as evidence: every record and manifest, no weights, text by block."""
    from analysis.publish import publish

    for line in publish(arguments.results, arguments.out):
        say(line)


def status(arguments: argparse.Namespace) -> None:
    """Show what each run is doing, once or, with `watch`, until Ctrl-C."""
    from rich.live import Live

    from analysis.status import build_status_table, list_statuses

    if not arguments.names:
        say(build_status_table(list_statuses(arguments.results)))
        return
    select_names(arguments.names, ["watch"])
    first = build_status_table(list_statuses(arguments.results))
    with (
        Live(first, console=new_console(), screen=interactive()) as view,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while True:
            time.sleep(REFRESH_SECONDS)
            view.update(build_status_table(list_statuses(arguments.results)), refresh=True)


def gpu(arguments: argparse.Namespace) -> None:
    """Show what make gpu-report measured, a card after the other."""
    from analysis.gpu_report import show_reports

    show_reports(arguments.results, arguments.out)


COMMANDS = {
    "all": everything,
    "report": report,
    "tables": tables,
    "figures": figures,
    "audit": run_audit,
    "claims": claims,
    "publish": publish,
    "import-release": import_release,
    "status": status,
    "gpu": gpu,
}
READS = {"status": RUNS, "publish": RUNS, "gpu": GPU_REPORTS}  # --results of the others: EVIDENCE


def build_parser() -> argparse.ArgumentParser:
    """Return the command line: a command, and what it takes."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in COMMANDS.items():
        text = str(function.__doc__)
        command = commands.add_parser(name, help=text.rstrip("."), description=text)
        command.set_defaults(run=function)
        if name != "status":
            required = name == "publish"  # the project's own evidence is written to when told to
            note = "as in analysis/evidence" if required else "default: %(default)s"
            command.add_argument("--out", type=Path, default=OUT, required=required, help=note)
        if name not in ("audit", "import-release"):
            default = READS.get(name, EVIDENCE)
            command.add_argument(
                "--results", type=Path, default=default, help="default: %(default)s"
            )
        if name in ("tables", "figures"):
            command.add_argument("names", nargs="*", metavar="NAME", help="default: all of them")
    options = commands.choices
    options["audit"].add_argument(
        "--ratings", type=Path, metavar="FILE", help="verdicts, csv; default: the released ones"
    )
    options["audit"].add_argument("--benchmark", metavar="NAME", help="vicuna, oa; default: all")
    options["import-release"].add_argument("checkout", type=Path, help="its folder")
    options["status"].add_argument(
        "names", nargs="*", metavar="watch", help="go on until Ctrl-C; default: show it once"
    )
    return parser


def main(command_line: Sequence[str]) -> int:
    """Run one command; return its exit code, and put what went wrong in one sentence."""
    open_closed_streams()
    arguments = build_parser().parse_args(command_line)
    try:
        arguments.run(arguments)
    except QloraError as error:
        print_error(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
