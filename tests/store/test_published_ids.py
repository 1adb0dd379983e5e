"""The runs that are published have the ids that today's code gives their settings."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from qlora_repro.config import validate
from qlora_repro.store.run_id import LEGACY, key, section
from qlora_repro.sweep.replay import _with_later_settings

RESULTS = Path(__file__).resolve().parents[2] / "analysis" / "results"
ORIGINS = sorted(RESULTS.glob("*/origin-*.json"))


def in_place(config: dict[str, Any]) -> dict[str, Any]:
    """Return a stored configuration without the files that are not published."""
    config["eval"]["perplexity_file"] = None
    config["data"]["path"] = None if config["data"]["name"] == "local" else config["data"]["path"]
    return config


@pytest.mark.usefixtures("configured")
def test_every_published_training_is_found_again() -> None:
    found, folders = set(), set()
    for path in ORIGINS:
        if path.stem != "origin-train":
            continue
        config = in_place(_with_later_settings(json.loads(path.read_text())["config"]))
        cfg = validate.parse(OmegaConf.create(config), written=())
        found.add(key(cfg, "train"))
        folders.add(path.parent.name[-12:])
    assert found == folders
    assert len(folders) == 111


@pytest.mark.parametrize(("name", "values"), LEGACY.items())
def test_what_the_code_did_before_a_setting_existed_is_no_part_of_an_identity(
    name: str, values: dict[str, Any]
) -> None:
    assert section(name, {"name": "x", **values}) == section(name, {"name": "x"})
