"""Presets say what the paper prints: Table 9, Appendix A and B, and which runs tables share."""

from collections import defaultdict

import pytest
from preset_cells import axes, cells, one, thinned

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.store.run_id import stage_digest

pytestmark = pytest.mark.long

MODELS = ["llama_7b", "llama_13b", "llama_33b", "llama_65b"]
OTHERS = ["alpaca", "flan_v2", "self_instruct", "unnatural", "chip2"]
# Table 9: model -> data -> batch, rate, steps, source and target length (None: not printed)
Row = tuple[int, float, int, int | None, int]


def printed(model: str, data: str) -> Row:
    large = model in MODELS[2:]
    rate = 1e-4 if large else 2e-4
    batch, steps = {"llama_33b": (32, 5000), "llama_65b": (64, 2500)}.get(model, (16, 10000))
    longform = (32, rate, 2343, 512, 1024) if large else (16, rate, 4000, 512, 1024)
    special: dict[str, Row] = {
        "oasst1": (16, rate, 1875, None, 512),
        "hh_rlhf": (batch, rate, steps, None, 768),
        "longform": longform,
    }
    return special.get(data, (batch, rate, steps, 384, 128))


@pytest.fixture(scope="module")
def table9() -> list[RunConfig]:
    return [cfg for _, cfg in cells("table9_hyperparameters", "paper")]


def ids(found: list[RunConfig]) -> set[str]:
    return {stage_digest(cfg, "train") for cfg in found}


def test_table_9_is_what_the_paper_prints(table9: list[RunConfig]) -> None:
    assert {(cfg.model.name, cfg.data.name) for cfg in table9} == {
        (model, data) for model in MODELS for data in (*OTHERS, "oasst1", "hh_rlhf", "longform")
    }
    for cfg in table9:
        batch, rate, steps, source, target = printed(cfg.model.name, cfg.data.name)
        train, data = cfg.train, cfg.data
        assert (train.batch_size, train.lr, train.max_steps) == (batch, rate, steps), cfg
        assert data.max_target_len == target
        assert source in (None, data.max_source_len)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("data", [*OTHERS, "oasst1", "hh_rlhf", "longform"])
def test_a_model_and_its_data_train_as_table_9_has_it_without_a_preset(
    model: str, data: str
) -> None:
    batch, rate, steps, _, target = printed(model, data)
    cfg = one("none", f"model={model}", f"data={data}")
    train = cfg.train
    assert (train.batch_size, train.lr, train.max_steps) == (batch, rate, steps)
    assert cfg.data.max_target_len == target


def test_steps_and_batch_that_are_written_win_over_table_9() -> None:
    cells_of = ("model=llama_7b", "data=oasst1")
    assert one("none", *cells_of, "train.max_steps=5").train.max_steps == 5
    assert one("none", *cells_of, "train.batch_size=4").train.batch_size == 4
    passes = one("none", *cells_of, "train.epochs=2", "data.rows=1600").train
    assert passes.max_steps == 200


@pytest.mark.parametrize(("model", "own"), [("smollm2_135m", (8, 80)), ("tiny", (4, 4))])
@pytest.mark.parametrize("data", ["oasst1", "longform", "alpaca"])
def test_the_embedded_and_the_tiny_model_keep_steps_of_their_own(
    model: str, own: tuple[int, int], data: str
) -> None:
    train = one("none", f"model={model}", f"data={data}").train
    assert (train.batch_size, train.max_steps) == own


def test_every_run_of_table_9_has_the_common_settings_of_appendix_b(
    table9: list[RunConfig],
) -> None:
    for cfg in table9:
        assert (cfg.dtype.name, cfg.dq, cfg.dtype.compute_dtype) == ("nf4", True, "bfloat16")
        assert (cfg.lora.target, cfg.lora.r, cfg.lora.alpha) == ("all", 64, 16)
        assert cfg.lora.dropout == (0.05 if cfg.model.name in MODELS[2:] else 0.1)
        train = cfg.train
        assert (train.beta2, train.max_grad_norm, train.schedule) == (0.999, 0.3, "constant")
        assert (train.optim, train.group_by_length) == ("paged_adamw_32bit", True)
        assert not cfg.data.train_on_source


@pytest.mark.parametrize("preset", ["table5_mmlu_by_dataset", "table6_vicuna_vs_chatgpt"])
def test_tables_5_and_6_ask_for_the_32_runs_of_table_9(
    preset: str, table9: list[RunConfig]
) -> None:
    assert len(ids(table9)) == 32
    assert axes(preset, "paper") == axes("table9_hyperparameters", "paper")
    assert ids([cfg for _, cfg in thinned(preset, "paper")]) <= ids(table9)


def test_tables_1_12_and_13_are_views_of_table_7_and_that_of_table_9(
    table9: list[RunConfig],
) -> None:
    table7 = [cfg for _, cfg in cells("table7_elo", "paper")]
    assert len(ids(table7)) == 4
    assert ids(table7) <= ids(table9)
    judged = {stage_digest(cfg, "judge") for cfg in table7}
    for view in ("table1_elo", "table12_pairwise", "table13_order"):
        found = [cfg for _, cfg in cells(view, "paper")]
        assert {cfg.generate.name for cfg in found} == {"vicuna"}
        assert ids(found) == ids(table7)
        assert {stage_digest(cfg, "judge") for cfg in found} <= judged


def test_table_8_scores_the_guanaco_65b_of_table_7() -> None:
    bias = one("table8_crows_bias", "model=llama_65b")
    assert stage_digest(bias, "train") == stage_digest(
        one("table7_elo", "model=llama_65b"), "train"
    )


def test_table_4_shares_its_nf4_runs_with_table_5(table9: list[RunConfig]) -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for cell, cfg in cells("table4_mmlu_by_dtype", "paper"):
        found[cell["method"]].add(stage_digest(cfg, "train"))
        assert cfg.eval.num_fewshot == 5
    assert [len(runs) for runs in found.values()] == [8, 8, 8]
    assert found["qlora_nf4_dq"] <= ids(table9)
    assert found["lora_bf16"].isdisjoint(found["qlora_fp4"] | ids(table9))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("full_bf16", ("bf16", False, True)),
        ("full_stanford", ("bf16", False, True)),
        ("lora_bf16", ("bf16", False, False)),
        ("qlora_int8", ("int8", False, False)),
        ("qlora_fp4", ("fp4", False, False)),
        ("qlora_nf4_dq", ("nf4", True, False)),
    ],
)
def test_a_method_is_a_data_type_with_or_without_adapters(
    method: str, says: tuple[str, bool, bool]
) -> None:
    cfg = one("none", f"method={method}", "data.rows=640")
    assert (cfg.dtype.name, cfg.dq, cfg.full_finetuning) == says


def test_full_fine_tuning_is_one_run_wherever_figure_2_would_put_adapters() -> None:
    words = ("method=full_bf16", "seed=1")
    placed = [one("fig2_lora_coverage", *words, f"lora={where}") for where in ("all", "ffn")]
    assert len(ids(placed)) == 1
    quantized = [
        one("fig2_lora_coverage", "method=qlora_nf4_dq", f"lora={w}") for w in ("all", "qv")
    ]
    assert len(ids(quantized)) == 2


def test_stanfords_settings_make_three_passes_over_alpaca_in_batches_of_128() -> None:
    train = one("fig2_lora_coverage", "method=full_stanford").train
    assert train.max_steps == pytest.approx((51942 - 1000) * 3 / 128, abs=1)
    assert (train.schedule, train.lr) == ("cosine", 2e-5)
    assert train.warmup_steps == pytest.approx(0.03 * train.max_steps, abs=1)


def test_table_3_has_the_r_of_appendix_a_by_size_of_t5() -> None:
    r = {cfg.model.name: cfg.lora for _, cfg in cells("table3_glue_superni_by_dtype_b", "paper")}
    sizes = {name.removeprefix("t5_lm_"): lora.r for name, lora in r.items()}
    assert sizes == {"small": 16, "base": 16, "large": 16, "xl": 64, "xxl": 64}
    assert {(lora.alpha, lora.dropout) for lora in r.values()} == {(64, 0.0)}


def test_steps_of_table_11_follow_from_rows_and_epochs() -> None:
    for cell, cfg in cells("table11_dataset_size", "paper"):
        rows, epochs = int(cell["data.rows"]), int(cell["train.epochs"])
        assert cfg.train.max_steps * 16 - rows * epochs in range(16)


def test_tasks_of_glue_bring_their_number_of_classes() -> None:
    found = {
        cell["data.tasks"]: cfg.model.num_labels
        for cell, cfg in cells("table3_glue_superni_by_dtype_a", "paper")
    }
    assert found.pop("[mnli]") == 3
    assert found.pop("[stsb]") == 1
    assert set(found.values()) == {2}


def test_a_table_that_needs_a_judges_opponent_says_so_before_training() -> None:
    with pytest.raises(ConfigError, match=r"judge\.opponent has no value"):
        one("table7_elo", "model=llama_7b", "generate=vicuna", "judge.opponent=null")
