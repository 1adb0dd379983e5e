"""The page from its template: everything escaped, its own script and style alone allowed."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from analysis.build import Rebuilt
from analysis.report.content import content
from qlora_repro.page_policy import policy
from qlora_repro.store.integrity import write_whole

FOLDER = Path(__file__).parent
PARTS = {"/* report.css */": "report.css", "// report.js": "report.js"}  # where the page has them


def page(facts: dict[str, Any]) -> str:
    """Return the page; no text of a run can be read as markup."""
    source = (FOLDER / "report.html").read_text(encoding="utf-8")
    for mark, name in PARTS.items():
        source = source.replace(f"{mark}\n", (FOLDER / name).read_text(encoding="utf-8"))
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(source).render(**facts, policy=policy(source, pictures=True))


def write_page(made: Rebuilt, out: Path) -> None:
    """Write the page."""
    write_whole(out, page(content(made, out)))
