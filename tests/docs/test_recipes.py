"""The recipes of docs/extending.md, carried out as they are written, in a copy of the checkout.

A process of each command has the libraries from the start and imports the copy as a new interpreter
does; only a launcher's command is a new interpreter.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from library_server import run_python

from qlora_repro.config.paths import ROOT

pytestmark = pytest.mark.long

PAGE = ROOT / "docs" / "extending.md"
LEFT_OUT = (
    ".*",
    "outputs",
    "results",
    "evidence",
    "verdicts",
    "tests",
    "*.egg-info",
    "__pycache__",
)
BLOCK = re.compile(
    r"(?:^(?P<head>[^\n`]*`[^\n]+)\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
HEADING = re.compile(r"^### (.*)$", re.M)
FILE = re.compile(r"`([\w./]+)`")
ADDITION = re.compile(r"In `([\w./]+)`, below `(.*)`")


@dataclass(frozen=True)
class Recipe:
    """A heading of the page, and the blocks below it."""

    title: str
    blocks: list[re.Match[str]]

    def commands(self) -> list[str]:
        """Return what a user types, a line each."""
        texts = [block["text"] for block in self.blocks if block["language"] == "sh"]
        return [line for text in texts for line in text.splitlines()]


def read_recipes(page: str) -> Iterator[Recipe]:
    """Yield the recipes of a page in their order."""
    parts = HEADING.split(page)[1:]
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        yield Recipe(title=title, blocks=list(BLOCK.finditer(text)))


def write_file(checkout: Path, block: re.Match[str]) -> None:
    """Write a block that is a file, or add one that is lines of a file."""
    if addition := ADDITION.fullmatch(block["head"]):
        path, line = checkout / addition[1], f"{addition[2]}\n"
        text = path.read_text()
        assert text.count(line) == 1, f"{addition[1]} has not one line {addition[2]}"
        path.write_text(text.replace(line, line + block["text"]))
        return
    name = FILE.fullmatch(block["head"])
    assert name, f"a block is headed by neither a path nor a place: {block['head']!r}"
    path = checkout / name[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block["text"])


# What the shell makes of a command's words, a line each
SHOW_ARGUMENTS = """python() { printf '%s\\n' "$@"; }; """


def run_command(checkout: Path, command: str) -> str:
    """Run a command of a recipe in the copy; return what it printed."""
    if "hydra/launcher" in command:  # which starts interpreters itself
        code, printed = run_shell(checkout, command)
    else:
        _, arguments = run_shell(checkout, SHOW_ARGUMENTS + command)
        code, printed = run_python(checkout, arguments.splitlines())
    assert code == 0, f"{command}\n{printed}"
    return printed


def run_shell(checkout: Path, command: str) -> tuple[int, str]:
    """Run a line of a shell; return the exit code and what it printed."""
    folder = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


SHOWN_LATER = ("A judge", "A model")  # run by a recipe that follows
RECIPES = list(read_recipes(PAGE.read_text()))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, without its evidence, in which the recipes follow each other."""
    folder = tmp_path_factory.mktemp("recipes") / "checkout"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return folder


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_a_recipe_works_as_it_is_written(recipe: Recipe, checkout: Path) -> None:
    assert any(block["language"] == "sh" for block in recipe.blocks) or recipe.title in SHOWN_LATER
    for block in recipe.blocks:
        if block["language"] != "sh":
            write_file(checkout, block)
    printed = "".join(run_command(checkout, command) for command in recipe.commands())
    if "--replay" in "".join(recipe.commands()):
        assert "every number is that of" in " ".join(printed.split())


def test_an_edit_of_ones_own_module_makes_another_run(checkout: Path) -> None:
    results, module = checkout / "outputs" / "results", checkout / "my_options" / "my_types.py"
    assert len(list(results.glob("tiny-uniform15-*all-r64-procedural-*"))) == 1
    text = module.read_text()
    module.write_text(text.replace("15)", "13)"))
    run_command(checkout, RECIPES[0].commands()[0])
    module.write_text(text)
    assert len(list(results.glob("tiny-uniform15-*all-r64-procedural-*"))) == 2


def test_a_replay_imports_no_module_but_the_users_own_that_is_the_same(checkout: Path) -> None:
    (run, *_) = (checkout / "outputs" / "results").glob("tiny-uniform15-*-squares-*")
    replay = f"python run.py --replay {run} results_dir=elsewhere"
    with pytest.raises(AssertionError, match="which is neither beside the options of --config-dir"):
        run_command(checkout, replay)
    changed = checkout / "changed"
    shutil.copytree(checkout / "my_options", changed)
    (changed / "my_types.py").write_text("raise SystemExit('it was imported')\n")
    with pytest.raises(AssertionError, match="is called only while it is the same") as refusal:
        run_command(checkout, f"{replay} --config-dir=changed")
    assert "it was imported" not in str(refusal.value)
