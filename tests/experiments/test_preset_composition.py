"""Every artifact of the paper has a preset; every cell of every preset composes and is sound."""

import pytest
from preset_cells import PRESETS, TWINS, cells, thinned

from qlora_repro.config.schema import RunConfig

pytestmark = pytest.mark.long

ARTIFACTS = {  # as the preset, the table's script and its csv are called
    "fig2_lora_coverage": ["fig2_lora_coverage"],
    "fig3_zeroshot_by_bits": ["fig3_zeroshot_by_bits"],
    "fig4_lora_rank": ["fig4_lora_rank"],
    "fig6_memory": ["fig6_memory"],
    "table1_elo": ["table1_elo"],
    "table2_perplexity_by_dtype": ["table2_perplexity_by_dtype"],
    "table3_glue_superni_by_dtype": [
        "table3_glue_superni_by_dtype_a",  # two halves, with no model and no data in common
        "table3_glue_superni_by_dtype_b",
    ],
    "table4_mmlu_by_dtype": ["table4_mmlu_by_dtype"],
    "table5_mmlu_by_dataset": ["table5_mmlu_by_dataset"],
    "table6_vicuna_vs_chatgpt": ["table6_vicuna_vs_chatgpt"],
    "table7_elo": ["table7_elo"],
    "table8_crows_bias": ["table8_crows_bias"],
    "table9_hyperparameters": ["table9_hyperparameters"],
    "table10_train_on_source": ["table10_train_on_source"],
    "table11_dataset_size": ["table11_dataset_size"],
    "table12_pairwise": ["table12_pairwise"],
    "table13_order": ["table13_order"],
    "normality": ["normality"],
}
OF_THE_PAPER = [preset for presets in ARTIFACTS.values() for preset in presets]
LARGE = (  # along each axis here, whole among the slow tests
    "table2_perplexity_by_dtype",  # 100 cells of independent axes
    "table5_mmlu_by_dataset",  # the axes of table9_hyperparameters, which is composed whole
    "table6_vicuna_vs_chatgpt",
)
ELSEWHERE = ("table9_hyperparameters",)  # whole in test_preset_values.py
PAPER = ("llama_", "opt_", "bloom_", "pythia_", "t5_lm_", "roberta_large")


def test_every_table_and_figure_has_a_preset_and_a_smaller_twin() -> None:
    assert set(OF_THE_PAPER) <= set(PRESETS)
    assert sorted(OF_THE_PAPER) == TWINS


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in LARGE + ELSEWHERE])
def test_every_cell_of_a_preset_composes_and_parses(preset: str) -> None:
    configs = [cfg for _, cfg in cells(preset, "paper")]
    assert configs
    if preset in OF_THE_PAPER:
        are_the_papers(configs)


@pytest.mark.parametrize("preset", LARGE)
def test_every_value_of_a_large_preset_composes_and_parses(preset: str) -> None:
    are_the_papers([cfg for _, cfg in thinned(preset, "paper")])


@pytest.mark.slow
@pytest.mark.parametrize("preset", LARGE)
def test_every_cell_of_a_large_preset_composes_and_parses(preset: str) -> None:
    are_the_papers([cfg for _, cfg in cells(preset, "paper")])


def are_the_papers(configs: list[RunConfig]) -> None:
    """No cell at the paper's scale has a model, or a word of one, that stands in for another."""
    for cfg in configs:
        assert cfg.model.name.startswith(PAPER), cfg.model.name
        assert (cfg.note, cfg.label) == (None, cfg.model.name)


@pytest.mark.parametrize("preset", TWINS)
def test_every_cell_of_a_twin_runs_on_the_embedded_model_and_is_said_to_stand_in(
    preset: str,
) -> None:
    configs = [cfg for _, cfg in cells(preset, "small")]
    assert configs
    for cfg in configs:
        assert cfg.model.source == "embedded"
        assert cfg.data.path is None or cfg.stages == ["plan"] or not cfg.train.max_steps
        assert cfg.train.max_steps <= 240  # minutes, at a few seconds a step
        assert cfg.label == "stand-in smollm2_135m"
        assert cfg.note is not None
        assert "scale=small: " in cfg.note
        assert " for " in str(cfg.scale.stand_in)
