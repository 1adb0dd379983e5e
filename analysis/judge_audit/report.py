"""The whole audit of a verdict file: tables in the terminal, markdown, json and figures."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from analysis.judge_audit import answers, figures, groups, humans, parsing, position
from analysis.judge_audit.counted_verdicts import Material, Section, absent, materials
from analysis.judge_audit.humans import self_preference
from analysis.table import Table
from qlora_repro.console import say
from qlora_repro.store.integrity import write_whole
from qlora_repro.store.verdicts import read_verdicts, released

SECTIONS: dict[str, Callable[[Material], Section]] = {
    "shares": position.shares,
    "swapping": position.swapping,
    "advantage": position.advantage,
    "closeness": groups.closeness,
    "pairs_by_order": position.pairs_by_order,
    "ranks_by_order": position.ranks_by_order,
    "merge_rules": position.merge_rules,
    "score_scale": position.score_scale,
    "by_category": groups.by_category,
    "by_language": groups.by_language,
    "by_length": groups.by_length,
    "verbosity": answers.verbosity,
    "self_preference": self_preference,
    "agreement": humans.agreement,
    "equal_answers": answers.equal_answers,
    "parse_failures": parsing.parse_failures,
}
UNREAD = ("shares", "parse_failures")  # sections that need no verdict
RESAMPLES, SEED = 1000, 0
RELEASED = "the released verdicts"


def audit(ratings: Path | None, benchmark: str | None, out: Path) -> None:
    """Audit every judge of a verdict file, or of the released verdicts; print it and write it.

    Raises DataError for a file that is not one of verdicts, or a benchmark that it does not have.
    """
    source = RELEASED if ratings is None else str(ratings)
    for material, made in examined(ratings, benchmark):
        say(f"\n{heading(material)}, from {source}\n")
        for section in made.values():
            show(section)
        say("In short:\n" + "\n".join(summary(made)))
        write(material, made, source=source, out=out)
        drawn = figures.draw(material, made, out)
        say(f"{out / material.name}.md, .json and {len(drawn)} figures")


def examined(
    ratings: Path | None, benchmark: str | None
) -> Iterator[tuple[Material, dict[str, Section]]]:
    """Yield each judge's verdicts of a file, None for the released ones, with what they show."""
    frame = released() if ratings is None else read_verdicts(ratings)
    for material in materials(frame, benchmark=benchmark, resamples=RESAMPLES, seed=SEED):
        yield material, examine(material)


def examine(material: Material) -> dict[str, Section]:
    """Return every section, also those that say why they could not be computed."""
    if material.read.empty:
        why = "no verdict could be read"
        unread = {name: absent(name.replace("_", " ").capitalize(), why) for name in SECTIONS}
        return unread | {name: SECTIONS[name](material) for name in UNREAD}
    return {name: section(material) for name, section in SECTIONS.items()}


def heading(material: Material) -> str:
    """Return what is audited, in one line."""
    return (
        f"audit of {material.judge} on {material.benchmark}, {material.protocol}: "
        f"{len(material.rows):,} rows, {len(material.prompts):,} prompts"
    )


def show(section: Section) -> None:
    """Print a section, its notes as lines below; one line where it could not be computed."""
    if section.frame is None:
        say(f"{section.title}: {' '.join(section.notes)}\n")
        return
    say(Table(title=section.title, frame=section.frame).rich())
    say("\n".join(section.notes) + "\n")


def summary(made: dict[str, Section]) -> list[str]:
    """Return the main findings, a line each."""
    return [f"- {section.headline.rstrip('.')}." for section in made.values() if section.headline]


def write(material: Material, made: dict[str, Section], *, source: str, out: Path) -> None:
    """Write markdown and json."""
    title = heading(material)
    short = "\n".join(summary(made))
    texts = [f"# {title[0].upper()}{title[1:]}\n\nFrom {source}.\n\n{short}\n"]
    texts += [f"#{section.markdown()}" for section in made.values()]
    write_whole(out / f"{material.name}.md", "\n".join(texts))
    facts: dict[str, Any] = {
        "judge": material.judge,
        "benchmark": material.benchmark,
        "protocol": material.protocol,
        "source": source,
        "rows": len(material.rows),
        "prompts": len(material.prompts),
        "resamples": len(material.weights),
        "sections": {name: {"notes": each.notes, **each.facts} for name, each in made.items()},
    }
    write_whole(out / f"{material.name}.json", json.dumps(facts, indent=1) + "\n")
