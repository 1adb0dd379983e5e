"""Hundreds of cells read the same two dozen files."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import OmegaConf
from preset_cells import ROOT


@pytest.fixture(scope="session", autouse=True)
def each_file_is_read_once() -> Iterator[None]:
    """Hand out copies of what a YAML file holds: a quarter of the time of composing a cell."""
    load, read = OmegaConf.load, dict[str, Any]()

    def once(file: Any) -> Any:
        name = str(getattr(file, "name", file))
        if name not in read:
            read[name] = load(file)
        return copy.deepcopy(read[name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", staticmethod(once))
        patch.setenv("QLORA_REPRO_ROOT", str(ROOT))
        yield
