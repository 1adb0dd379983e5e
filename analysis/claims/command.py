"""python -m analysis claims: the seven verdicts, printed and written as markdown and json."""

import json
from pathlib import Path

from analysis.claims import ours, paper, show
from analysis.claims.settings import fixed
from analysis.claims.verdicts import decide
from analysis.table import Table
from qlora_repro.console import say
from qlora_repro.store.runs import write_whole
from qlora_repro.store.verdicts import released


def claims(results: Path | None, out: Path) -> show.Decided:
    """Print and write the verdicts of both sources; return them. `results` None: no run yet."""
    found = decided(results)
    for table in reversed(tables(found)):
        say(table.rich())
    write(found, out)
    say(f"verdicts lie in {out / 'claims.md'} and {out / 'claims.json'}")
    return found


def decided(results: Path | None) -> show.Decided:
    """Return the verdicts of both sources."""
    held = fixed()
    return {
        "paper": decide(paper.evidence(released(), held), alpha=held.alpha),
        "ours": decide(ours.evidence(results, held), alpha=held.alpha),
    }


def tables(found: show.Decided) -> list[Table]:
    """Return the overview, then the comparisons of each source, ours first."""
    held = fixed()
    each = [show.details(name, verdicts, held) for name, verdicts in found.items()]
    return [show.overview(found, held), *reversed(each)]


def write(found: show.Decided, out: Path) -> None:
    """Write the verdicts as markdown and json."""
    pages = [table.markdown() for table in tables(found)]
    write_whole(out / "claims.md", "\n".join(pages))
    write_whole(out / "claims.json", json.dumps(show.as_json(found, fixed()), indent=2) + "\n")
