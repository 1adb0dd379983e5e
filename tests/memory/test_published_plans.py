"""The plans that are published have the ids that today's code gives their settings."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qlora_repro.config import validate
from qlora_repro.config.schema import RunConfig
from qlora_repro.store.run_id import LEGACY, key

RESULTS = Path(__file__).resolve().parents[2] / "analysis" / "results"
PLANS = sorted(RESULTS.glob("*/plan-*.jsonl"))


@pytest.fixture
def planned_again(configured: Callable[..., RunConfig]) -> Callable[[Path], RunConfig]:
    """Compose the configuration of a plan from the settings stored beside it."""

    def compose(path: Path) -> RunConfig:
        stored = json.loads(path.read_text())
        for section, values in LEGACY.items():
            stored[section] = {**values, **stored[section]}
        stored["lora"]["dtype"] = stored["plan"].pop("adapters")
        today = OmegaConf.structured(configured("stages=[plan]"))
        return validate.parse(OmegaConf.merge(today, stored), written=())

    return compose


def test_every_published_plan_is_looked_at() -> None:
    assert len(PLANS) == 36


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_published_plan_has_its_id(path: Path, planned_again: Callable[..., RunConfig]) -> None:
    settings = path.name.replace("plan-", "settings-").replace(".jsonl", ".json")
    cfg = planned_again(path.with_name(settings))
    assert f"plan-{key(cfg, 'plan')}" == path.stem
