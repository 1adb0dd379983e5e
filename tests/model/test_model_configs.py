"""Every option of the model group, composed and held against Table 9 and the structured config."""

from pathlib import Path
from typing import cast

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from qlora_repro.config.schema import ModelConfig
from qlora_repro.model.checkpoint import SOURCES
from qlora_repro.model.load import AUTO_CLASSES

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = sorted(path.stem for path in (ROOT / "conf/model").glob("[!_]*.yaml"))
TABLE_9 = {  # lr, batch, steps of "all others", and dropout (Appendix B.2)
    "llama_7b": (2e-4, 16, 10000, 0.1),
    "llama_13b": (2e-4, 16, 10000, 0.1),
    "llama_33b": (1e-4, 32, 5000, 0.05),
    "llama_65b": (1e-4, 64, 2500, 0.05),
}


def option(name: str, monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    monkeypatch.setenv("QLORA_REPRO_ROOT", str(ROOT))
    overrides = [f"model={name}"] + (["model.path=DIR"] if name == "local" else [])
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = OmegaConf.to_container(compose("config", overrides=overrides).model, resolve=True)
    merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), cfg)
    return cast(ModelConfig, OmegaConf.to_object(merged))


@pytest.mark.parametrize("name", OPTIONS)
def test_option_states_every_field_and_its_own_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = option(name, monkeypatch)
    assert model.name == name
    assert model.kind in AUTO_CLASSES
    assert model.source in SOURCES
    assert model.num_labels is None  # the task or the user brings it
    assert (model.path is None) == (model.source in ("embedded", "random"))
    assert model.source != "hub" or (model.revision and model.path.count("/") == 1)  # type: ignore[union-attr]
    assert not model.trust_remote_code


@pytest.mark.parametrize(("name", "row"), TABLE_9.items())
def test_llama_has_the_settings_of_table_9(
    name: str, row: tuple[float, int, int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = option(name, monkeypatch).tuned
    assert (tuned.lr, tuned.batch_size, tuned.max_steps, tuned.dropout) == row
    assert tuned.compute_dtype == "bfloat16"
    assert (tuned.micro_batch_size, tuned.gradient_checkpointing) == ("auto", "auto")
