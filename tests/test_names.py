"""Names are the field's words: no private idiom in modules, functions, parameters and variables."""

import ast
from collections.abc import Iterator
from pathlib import Path

from qlora_repro.config.paths import ROOT

# A part of a name, between underscores -> what is said instead
IDIOM = {
    "found": "the thing itself: scores, table, path",
    "made": "the thing itself: rows, model, table",
    "said": "message, text",
    "told": "warn, a callback's own name",
    "torn": "corrupt",
    "vouched": "checksummed",
    "worded": "describe_error",
    "lend": "acquire or cache",
    "foretold": "expected",
    "foresee": "check",
    "standing": "win_rate",
}
# A whole name -> what is said instead
ALONE = {
    "there": "the thing itself",
    "own": "whose it is",
    "words": "overrides, or the texts that they are",
    "claim": "lock",
    "lead": "coordinator",
    "follow": "worker",
    "together": "process_group",
    "home": "shut_down",
    "kept": "cached, stored",
    "live": "session",
    "take": "acquire",
    "give_back": "release",
    "whole": "complete",
    "draws": "samples",
    "arms": "groups",
    "places": "positions",
    "attempt": "run_cell",
    "lack": "out_of_memory",
}
# A function -> a verb needs its object
OBJECTLESS = ("build", "draw", "compare", "shown", "show", "check", "find", "read", "made")
# file (or folder): the names that it may use all the same, and why
EXCEPTIONS: dict[str, dict[str, str]] = {
    "qlora_repro/data/procedural.py": {"words": "English words, which the questions are about"},
    "qlora_repro/data/templates.py": {"lead": "a key of users' template files"},
    "qlora_repro/records.py": {"kept": "a key of manifests on disk"},
    "experiments/bench_judge_client.py": {"connection_made": "asyncio.Protocol's name"},
}
FOLDERS = ("qlora_repro", "analysis", "experiments", "hydra_plugins")


def python_files() -> list[Path]:
    """Return the files whose names are looked at."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [*files, ROOT / "run.py"]


def names_of(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) of what a node defines or binds; kinds: function, class, variable."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield "function", name
        case ast.ClassDef(name=name):
            yield "class", name
        case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
            yield "variable", name
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            yield "variable", name
        case ast.ImportFrom(names=aliases) | ast.Import(names=aliases):
            yield from (("variable", alias.asname) for alias in aliases if alias.asname)


def names_in(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Yield (line, kind, name) of what a module defines and binds."""
    for node in ast.walk(tree):
        yield from ((getattr(node, "lineno", 1), *named) for named in names_of(node))


def complaint_about(kind: str, name: str) -> str | None:
    """Return what to say instead of a name; None where there is nothing against it.

    >>> complaint_about("variable", "rows_found")
    'the thing itself: scores, table, path'
    >>> complaint_about("function", "build")
    'a verb with its object'
    >>> complaint_about("variable", "scores") is None
    True
    """
    plain = name.strip("_").lower()
    if plain in ALONE:
        return ALONE[plain]
    if kind == "function" and plain in OBJECTLESS:
        return "a verb with its object"
    return next((IDIOM[part] for part in plain.split("_") if part in IDIOM), None)


def is_excepted(path: Path, name: str) -> bool:
    """Whether a file, or a folder that it is in, may use a name."""
    relative = path.relative_to(ROOT)
    homes = [str(relative), *(str(parent) for parent in relative.parents)]
    return any(name.strip("_").lower() in EXCEPTIONS.get(home, {}) for home in homes)


def test_every_name_is_one_that_the_field_would_guess() -> None:
    complaints = []
    for path in python_files():
        module = "module", path.stem, 1
        names = [(line, kind, name) for line, kind, name in names_in(ast.parse(path.read_text()))]
        for line, kind, name in [(module[2], module[0], module[1]), *names]:
            instead = complaint_about(kind, name)
            if instead and not is_excepted(path, name):
                complaints.append(f"{path.relative_to(ROOT)}:{line} {kind} {name}: {instead}")
    assert not complaints, "\n".join(complaints)


def test_every_exception_is_still_needed() -> None:
    for home, excepted in EXCEPTIONS.items():
        paths = [p for p in python_files() if str(p.relative_to(ROOT)).startswith(home)]
        used = {
            name.strip("_").lower()
            for path in paths
            for _, _, name in names_in(ast.parse(path.read_text()))
        }
        assert set(excepted) <= used, f"{home}: {set(excepted) - used}"
