"""The shape of the packages: no module imports itself by way of others, and no room is crowded."""

from graphlib import TopologicalSorter
from pathlib import Path

import grimp

from qlora_repro.config.paths import ROOT

PACKAGES = ("qlora_repro", "analysis")
CROWDED = {"qlora_repro": 8}  # modules of a package at most, `__init__` among them
MOST = 13
ONE_FILE_AN_ARTIFACT = ("analysis/tables", "analysis/figures")


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = grimp.build_graph(*PACKAGES)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # CycleError names the cycle


def test_a_package_holds_few_modules() -> None:
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    for folder in folders:
        name = str(folder.relative_to(ROOT))
        if name not in ONE_FILE_AN_ARTIFACT:
            assert len(list(folder.glob("*.py"))) <= CROWDED.get(name, MOST), name
    modules = [path for package in PACKAGES for path in Path(ROOT / package).rglob("*.py")]
    assert len(modules) <= 200


def test_every_package_says_what_it_holds() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            assert path.read_text().startswith('"""'), path
