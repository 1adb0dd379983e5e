"""Sizes written in conf/model give the parameter counts that the models' authors publish."""

from collections.abc import Callable

import pytest

from qlora_repro.config.schema import RunConfig
from qlora_repro.memory.settings import read_architecture

PUBLISHED = {  # of the checkpoints
    "opt_125m": 125_239_296,
    "opt_350m": 331_196_416,
    "opt_1b3": 1_315_758_080,
    "opt_13b": 12_853_473_280,
    "bloom_560m": 559_214_592,
    "bloom_7b1": 7_069_016_064,
    "pythia_160m": 162_322_944,
    "pythia_410m": 405_334_016,
    "pythia_1b": 1_011_781_632,
    "pythia_2b8": 2_775_208_960,
    "pythia_6b9": 6_857_302_016,
    "pythia_12b": 11_846_072_320,
    "t5_lm_small": 76_961_152,
    "t5_lm_base": 247_577_856,
    "t5_lm_large": 783_150_080,
    "t5_lm_xl": 2_849_757_184,
    "t5_lm_xxl": 11_135_332_352,
    "roberta_large": 355_361_794,  # with a head of two classes
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_is_planned_without_its_files_and_has_its_published_size(
    name: str, configured: Callable[..., RunConfig]
) -> None:
    model = configured(f"model={name}", "stages=[plan]", "data=glue").model
    found, adapted = read_architecture(model, "all", layers=None)
    head = 0
    if name.startswith("t5"):  # whose output layer transformers ties to the embedding
        assert model.config is not None
        head = model.config["vocab_size"] * model.config["d_model"]
    assert found.params + head == PUBLISHED[name]
    assert len(adapted) >= 4 * len(found.blocks)
