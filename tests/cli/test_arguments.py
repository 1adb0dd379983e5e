"""A sweep's cells are composed once each, and ids stay what they are."""

import string
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from hypothesis import example, given
from hypothesis import strategies as some
from omegaconf import OmegaConf

from qlora_repro.cli.main import compose_once, quote_ids
from qlora_repro.config.validate import parse_config
from qlora_repro.store.run_id import stage_digest

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = ["30e123456789", "1e0000000001", "03e123456789", "123456789e01", "123456789012"]
DIGITS = some.text("0123456789", min_size=11, max_size=11)
LIKE_FLOATS = some.builds(lambda d, at: d[:at] + "e" + d[at:], DIGITS, some.integers(1, 10))
IDS = LIKE_FLOATS | some.text(string.hexdigits.lower()[:16], min_size=12, max_size=12)


def test_a_cell_that_was_checked_is_not_composed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QLORA_REPRO_ROOT", str(ROOT))
    composed = []
    whole = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, *args: object, **kwargs: object) -> object:
        composed.append(kwargs["overrides"])
        return whole(self, *args, **kwargs)

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
        monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
        sweeper = cast(
            Any, SimpleNamespace(config=master, hydra_context=Mock(config_loader=loader))
        )
        before = ConfigLoaderImpl.load_sweep_config
        with compose_once():
            cells = [["seed=0"], ["seed=1"]]
            Sweeper.validate_batch_is_legal(sweeper, [*cells, cells[0]])
            assert len(composed) == 2  # a repeated cell once
            run = [loader.load_sweep_config(master, words) for words in cells]
            assert [cfg.seed for cfg in run] == [0, 1]
            assert len(composed) == 2
            again = loader.load_sweep_config(master, cells[0])  # a cell may change its own
            assert again is not run[0]
            assert len(composed) == 3
        assert ConfigLoaderImpl.load_sweep_config is before


def test_cells_come_out_as_hydra_composes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QLORA_REPRO_ROOT", str(ROOT))
    cells = [
        ["dtype=fp4", "model=tiny", "seed=1"],
        ["dtype=nf4", "model=tiny", "lora=attention", "data.rows=8"],
        ["dtype=fp4", "model=tiny", "data.rows=16"],
        ["experiments=table2_perplexity_by_dtype", "scale=small"],
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
        own = [str(name) for name in master if name != "hydra"]
        plain = [loader.load_sweep_config(master, words) for words in cells]
        with compose_once():
            for words, expected in zip(cells, plain, strict=True):
                found = loader.load_sweep_config(master, words)
                assert found.hydra.runtime.choices == expected.hydra.runtime.choices
                assert found.hydra.overrides == expected.hydra.overrides
                assert OmegaConf.masked_copy(found, own) == OmegaConf.masked_copy(expected, own)
                found.seed, found.data.rows = 99, 99  # what a cell does to its own


@example(["000000000e0e"])
@given(some.lists(IDS, min_size=1, max_size=3))
def test_hydra_reads_every_id_as_it_was_written(ids: Sequence[str]) -> None:
    words = [f"judge.opponent=[{','.join(ids)}]", f"judge.run={ids[0]}"]
    many, one = OverridesParser.create().parse_overrides([quote_ids(word) for word in words])
    assert [str(value) for value in many.value()] == [*ids]
    assert str(one.value()) == ids[0]


@pytest.mark.parametrize("name", NUMBERS)
def test_an_id_with_the_looks_of_a_number_reaches_the_settings(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLORA_REPRO_ROOT", str(ROOT))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for opponent, read in ((name, name), (f"[base,{name}]", ["base", name])):
            words = [f"judge.run={name}", f"judge.opponent={opponent}", "train.lr=1e-4"]
            cfg = parse_config(compose("config", [quote_ids(word) for word in words]), written=())
            assert (cfg.judge.run, cfg.judge.opponent, cfg.train.lr) == (name, read, 1e-4)
            assert (
                len(stage_digest(cfg, "judge")) == 12
            )  # a number for a name would have no contents


@pytest.mark.parametrize(
    "word",
    [
        "judge.run=tiny-nf4-s0-30e123456789",
        "judge.opponent=answers/30e123456789.jsonl",
        "judge.opponent=['a, 30e123456789']",
        "train.lr=1e-4",
        "data.rows=123456789012",
        "seed=123456789012e5",
    ],
)
def test_nothing_else_is_put_in_quotes(word: str) -> None:
    assert quote_ids(word) == word
