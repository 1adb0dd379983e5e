"""Fields that came later: ids and replays of what was there before."""

from collections.abc import Callable
from dataclasses import asdict, field, make_dataclass
from enum import Enum
from typing import Any

import pytest

from qlora_repro.config.schema import (
    LEGACY,
    DataConfig,
    RunConfig,
    field_metadata,
    legacy,
    setting_types,
)
from qlora_repro.store import run_id
from qlora_repro.store.run_id import stage_digest
from qlora_repro.sweep import replay

Configured = Callable[..., RunConfig]


def test_a_field_with_a_legacy_value_changes_no_id_until_it_is_used(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = make_dataclass(
        "Later", [("shuffle", bool, field(metadata=legacy(False)))], bases=(DataConfig,)
    )
    declared = field_metadata("legacy", make_dataclass("Config", [("data", later)]))
    assert declared["data"] == LEGACY["data"] | {"shuffle": False}
    cfg = configured("model=tiny")
    before = stage_digest(cfg, "train")
    monkeypatch.setattr(run_id, "LEGACY", LEGACY | declared)
    cfg.data = later(**asdict(cfg.data), shuffle=False)
    assert stage_digest(cfg, "train") == before
    cfg.data.shuffle = True
    assert stage_digest(cfg, "train") != before


def test_a_replay_gives_an_old_run_the_legacy_values(configured: Configured) -> None:
    recorded: dict[str, Any] = asdict(configured("model=tiny"))
    for section, names in LEGACY.items():
        for name in names:
            del recorded[section][name]
    filled = replay._with_later_settings(recorded)
    for section, values in LEGACY.items():
        assert {name: filled[section][name] for name in values} == values


def test_no_setting_is_an_enum_which_omegaconf_would_read_by_its_name() -> None:
    kinds = {kind for kind in setting_types().values() if isinstance(kind, type)}
    assert not [kind for kind in kinds if issubclass(kind, Enum)]
