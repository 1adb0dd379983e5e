"""Names that no checker sees: texts that name a module, a function or a command resolve."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = "qlora_repro|analysis|experiments|hydra_plugins"
DOTTED = re.compile(rf"(?:{PACKAGES})(?:\.[A-Za-z_]\w*)+(?::[A-Za-z_]\w*)?")
COMMAND = re.compile(rf"python3? -m ((?:{PACKAGES})[\w.]*)")
SEARCH_PATH = re.compile(r"pkg://([\w.]+)")
NO_NAMES = {"py", "yaml", "yml", "md", "csv", "json", "jsonl", "toml", "parquet", "html", "png"}


def texts() -> Iterator[tuple[Path, str]]:
    for folder in ("conf", "experiments", "docs", "qlora_repro", "analysis"):
        for suffix in ("yaml", "md", "html", "py"):
            for path in (ROOT / folder).rglob(f"*.{suffix}"):
                if "results" not in path.parts and "verdicts" not in path.parts:
                    yield path, path.read_text(encoding="utf-8")
    for name in ("README.md", "Makefile", "pyproject.toml"):
        yield ROOT / name, (ROOT / name).read_text(encoding="utf-8")


def constants(path: Path) -> Iterator[str]:
    """Yield the dotted names among the text constants of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = DOTTED.fullmatch(node.value)
            if found and node.value.rpartition(".")[2] not in NO_NAMES:
                yield node.value


def named() -> dict[str, str]:
    """Return every dotted name in a text, with a file that has it."""
    found: dict[str, str] = {}
    for path, text in texts():
        where = str(path.relative_to(ROOT))
        for match in [*COMMAND.finditer(text), *SEARCH_PATH.finditer(text)]:
            found.setdefault(match[1].rstrip("."), where)
        if path.suffix == ".yaml":
            for match in re.finditer(rf"_target_: ({DOTTED.pattern})", text):
                found.setdefault(match[1], where)
    for folder in ("qlora_repro", "analysis", "experiments", "tests", "hydra_plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            for name in constants(path):
                found.setdefault(name, str(path.relative_to(ROOT)))
    return found


NAMED = named()


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_name_in_a_text_is_that_of_something(name: str) -> None:
    try:
        resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise AssertionError(f"{NAMED[name]} names {name}: {error}") from error
