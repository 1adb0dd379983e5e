"""The page from its template: everything escaped, its own script and style alone allowed."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.page.content import content
from analysis.rebuild import Rebuilt
from qlora_repro.closed_page import policy
from qlora_repro.store.runs import write_whole

FOLDER = Path(__file__).parent
TEMPLATE = "report.html"


def page(facts: dict[str, Any]) -> str:
    """Return the page; no text of a run can be read as markup."""
    source = (FOLDER / TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(**facts, policy=policy(source, pictures=True))


def write_page(made: Rebuilt, out: Path) -> None:
    """Write the page."""
    write_whole(out, page(content(made, out)))
