"""python -m analysis claims: the seven verdicts, printed and written as markdown and json."""

import json
from pathlib import Path

from analysis.claims import ours, paper, show
from analysis.claims.settings import fixed
from analysis.claims.verdicts import decide
from qlora_repro.console import say
from qlora_repro.store.runs import write_whole
from qlora_repro.store.verdicts import released


def claims(results: Path | None, out: Path) -> show.Decided:
    """Print and write the verdicts of both sources; return them. `results` None: no run yet."""
    held = fixed()
    found = {
        "paper": decide(paper.evidence(released(), held), alpha=held.alpha),
        "ours": decide(ours.evidence(results, held), alpha=held.alpha),
    }
    tables = [
        *(show.details(name, verdicts, held) for name, verdicts in found.items()),
        show.overview(found, held),
    ]
    for table in tables:
        say(table.rich())
    pages = [table.markdown() for table in reversed(tables)]
    write_whole(out / "claims.md", "\n".join(pages))
    write_whole(out / "claims.json", json.dumps(show.as_json(found, held), indent=2) + "\n")
    say(f"verdicts lie in {out / 'claims.md'} and {out / 'claims.json'}")
    return found
