"""The runs that are published have the ids that today's code gives their settings."""

import hashlib
import json
from typing import Any

import pytest
from omegaconf import OmegaConf

from qlora_repro.config import validate
from qlora_repro.config.schema import RunConfig
from qlora_repro.store.load import load_documents, load_settings
from qlora_repro.store.run_id import LEGACY, deciding_settings, hashed_section, stage_digest
from qlora_repro.sweep.replay import _with_later_settings

FILES = ("perplexity_file", "include_path")  # of the user's own; they are not published


def configuration(origin: dict[str, Any]) -> RunConfig:
    """Return a stored configuration, another file in the place of those that are not published."""
    config = _with_later_settings(origin["config"])
    config["eval"] |= {name: __file__ for name in FILES if config["eval"][name]}
    config["data"]["path"] = None if config["data"]["name"] == "local" else config["data"]["path"]
    return validate.parse_config(OmegaConf.create(config), written=())


def digest_of(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


@pytest.mark.usefixtures("configured")
def test_every_published_training_is_found_again() -> None:
    origins = load_documents("origin-train.json")
    ids = [stage_digest(configuration(origin), "train") for origin in origins["document"]]
    assert ids == list(origins["run_id"])
    assert len(ids) == 111


@pytest.mark.usefixtures("configured")
def test_every_published_evaluation_is_found_again() -> None:
    settings = load_settings()
    origins = load_documents("origin-*.json").query("digest != 'train'")
    assert len(origins) == 151
    for row in origins.itertuples():
        stage = "untuned_eval" if "-untuned-" in str(row.folder) else "eval"
        decisive = deciding_settings(configuration(row.document), stage)
        stored = settings[row.run_id, row.digest]
        decisive["eval"] |= {name: stored["eval"][name] for name in FILES}
        assert digest_of(decisive) == row.digest, row.folder


def test_every_stage_is_named_by_the_settings_stored_beside_it() -> None:
    settings = load_settings()
    assert len(settings) == 188
    for (_, digest), document in settings.items():
        assert digest_of(document) == digest


@pytest.mark.parametrize(("name", "values"), LEGACY.items())
def test_what_the_code_did_before_a_setting_existed_is_no_part_of_an_identity(
    name: str, values: dict[str, Any]
) -> None:
    assert hashed_section(name, {"name": "x", **values}) == hashed_section(name, {"name": "x"})
