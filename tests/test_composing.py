"""A sweep's cells are composed once each."""

from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from qlora_repro.composing import composed_once

ROOT = Path(__file__).resolve().parents[1]


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
        before = ConfigLoaderImpl.load_sweep_config
        with composed_once():
            cells = [["seed=0"], ["seed=1"]]
            checked = [loader.load_sweep_config(master, words) for words in cells]
            run = [loader.load_sweep_config(master, words) for words in cells]
            assert [cfg.seed for cfg in run] == [0, 1]
            assert all(a is b for a, b in zip(checked, run, strict=True))
            assert len(composed) == 2
            loader.load_sweep_config(master, cells[0])  # run again, as by another sweep
            assert len(composed) == 3
        assert ConfigLoaderImpl.load_sweep_config is before
