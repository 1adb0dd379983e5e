"""The page from its template: everything escaped, its own script and style alone allowed."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from analysis.build import AnalysisOutputs
from analysis.report.content import build_content, classify_cell, find_number_columns
from qlora_repro.page_policy import content_security_policy
from qlora_repro.store.integrity import write_atomic

FOLDER = Path(__file__).parent
PARTS = {"/* report.css */": "report.css", "// report.js": "report.js"}  # where the page has them


def render_page(content: dict[str, Any]) -> str:
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
    environment.filters |= {"cell_class": classify_cell, "number_columns": find_number_columns}
    policy = content_security_policy(source, pictures=True)
    return environment.from_string(source).render(**content, policy=policy)


def write_page(outputs: AnalysisOutputs, out: Path) -> None:
    """Write the page."""
    write_atomic(out, render_page(build_content(outputs, out)))
