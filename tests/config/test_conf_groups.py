"""Every group of conf/ has one `_base`, and its options state only what differs from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from qlora_repro.config.schema import RunConfig, section_classes

CONF = Path(__file__).resolve().parents[2] / "conf"
SECTIONS = section_classes(RunConfig)  # method is no section: its options choose among groups
OPTIONS = sorted(path for name in SECTIONS for path in (CONF / name).glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}


def inherited(path: Path) -> dict[str, Any]:
    """Return what an option has from the files that it starts from."""
    merged = OmegaConf.create({})
    for name in read(path).get("defaults", []):
        if name != "_self_":
            parent = path.parent / f"{name}.yaml"
            own = {k: v for k, v in read(parent).items() if k != "defaults"}
            merged = OmegaConf.merge(merged, inherited(parent), own)
    values = OmegaConf.to_container(merged)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}


@pytest.mark.parametrize("group", SECTIONS)
def test_the_base_of_a_group_has_every_field_of_its_section(group: str) -> None:
    base = CONF / group / "_base.yaml"
    fields = {*inherited(base), *read(base)} - {"defaults"}
    assert fields == set(SECTIONS[group].__annotations__)


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_option_starts_from_the_base_and_repeats_nothing_of_it(path: Path) -> None:
    if path.stem in ("_base", "_prices"):
        return
    own, above = read(path), inherited(path)
    own.pop("defaults")
    assert set(SECTIONS[path.parent.name].__annotations__) == set(above)
    repeated = {name for name, value in own.items() if value == above[name] and value != "???"}
    for name in own.keys() & {"tuned"}:
        repeated |= {k for k, value in own[name].items() if value == above[name][k]}
    assert not repeated


def test_rows_are_drawn_by_the_run_s_seed_unless_they_are_held(
    configured: Callable[..., RunConfig],
) -> None:
    drawn, held = (configured("model=tiny", "seed=3", *words) for words in ((), ("data.seed=0",)))
    assert (drawn.seed, drawn.data.seed) == (3, 3)
    assert (held.seed, held.data.seed) == (3, 0)
