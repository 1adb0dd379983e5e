"""The plans that are published have the ids that today's code gives their settings."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from qlora_repro.config import validate
from qlora_repro.config.schema import RunConfig
from qlora_repro.store.load import load_plans, load_settings
from qlora_repro.store.run_id import LEGACY, stage_digest

PLANS = load_plans()


@pytest.fixture
def plan_again(configured: Callable[..., RunConfig]) -> Callable[[dict[str, Any]], RunConfig]:
    """Compose the configuration of a plan from its stored settings."""

    def compose(settings: dict[str, Any]) -> RunConfig:
        stored = json.loads(json.dumps(settings))
        for section, values in LEGACY.items():
            if section in stored:
                stored[section] = {**values, **stored[section]}
        stored["lora"]["dtype"] = stored["plan"].pop("adapters")
        today = OmegaConf.structured(configured("stages=[plan]"))
        return validate.parse_config(OmegaConf.merge(today, stored), written=())

    return compose


def test_every_published_plan_is_looked_at() -> None:
    assert len(PLANS) == 36


@pytest.mark.parametrize(("run_id", "digest"), PLANS[["run_id", "digest"]].to_numpy())
def test_a_published_plan_has_its_id(
    run_id: str, digest: str, plan_again: Callable[..., RunConfig]
) -> None:
    cfg = plan_again(load_settings()[run_id, digest])
    assert stage_digest(cfg, "plan") == digest
