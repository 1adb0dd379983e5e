"""What names a run: every setting, one by one, against a table of what it decides."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_repro.config.schema import ColumnsConfig, RunConfig, setting_types
from qlora_repro.store.run_id import DECIDES, stage_digest

WEIGHTS = {"train", "eval", "generate", "judge"}  # what depends on the trained weights
EVERYTHING = {*WEIGHTS, "untuned", "untuned_eval", "untuned_generate"}
# section -> what it decides
SECTIONS = {
    "model": {*EVERYTHING, "measure", "plan"},
    "dtype": {*EVERYTHING, "plan"},
    "dq": {*EVERYTHING, "plan"},
    "lora": {*WEIGHTS, "plan"},
    "data": {*WEIGHTS, "plan"},
    "train": {*WEIGHTS, "plan"},
    "seed": {*WEIGHTS, "untuned_generate"},
    "eval": {"eval", "untuned_eval"},
    "generate": {"generate", "judge", "untuned_generate"},
    "judge": {"judge"},
    "measure": {"measure"},
    "plan": {"plan"},
}
# Where a run takes place, what it is called, keeps and prints: no result depends on it.
NOT_DECISIVE = {
    "model.device",
    "model.attention",  # equal to rounding
    "model.note",
    "model.architecture",  # follows from the checkpoint
    "model.config",
    "model.tuned",  # read through the sections that refer to it
    "data.max_truncated",  # fails a run or does not
    "train.name",
    "train.epochs",  # max_steps follows from it
    "train.kernels",  # equal to rounding
    "lora.fused",
    "train.save_steps",
    "train.sharded",
    "train.keep_checkpoints",
    "train.log_steps",
    "eval.name",
    "generate.name",
    "measure.name",
    "plan.name",
    "plan.gpus",
    "plan.tflops",  # time and price, not memory
    "plan.usd_per_hour",
    "plan.utilization",
    "plan.block_ms",
    "plan.score_tokens",
    "judge.client",  # the same replies come back
    "judge.estimate",
    "judge.mode",
    "judge.max_cost",
    "judge.price",
    "judge.prices",
    "judge.batch_discount",
    "tracker",
    "scale",  # what a run stands in for
    "stages",
    "results_dir",
    "merge",
    "rerun",
    "on_error",
}
LEAVES = sorted(
    name for name in setting_types() if not any(k.startswith(f"{name}.") for k in setting_types())
)
EXAMPLES: dict[str, Any] = {
    "dict": {},
    "float": 1.5,
    "str": "other",
    "int": 7,
    "list[str]": ["x"],
    "list[int]": [1],
}


@pytest.fixture(scope="module")
def cfg(configured: Callable[..., RunConfig]) -> RunConfig:
    found = configured("model=tiny")
    found.data.columns = ColumnsConfig(source="question", target="answer", task=None)
    return found


def changed(cfg: RunConfig, name: str) -> RunConfig:
    """Return a copy with one setting changed to another value of its type."""
    other = copy.deepcopy(cfg)
    *path, leaf = name.split(".")
    section: Any = other
    for part in path:
        section = getattr(section, part)
    setattr(section, leaf, another(getattr(section, leaf), str(setting_types()[name])))
    return other


def another(value: Any, hint: str) -> Any:
    if value is None:
        return next(EXAMPLES[kind] for kind in EXAMPLES if kind in hint)
    if isinstance(value, bool):
        return not value
    if isinstance(value, dict):
        return {**value, "x": {}}
    return [*value, "x"] if isinstance(value, list) else value + type(value)(1)


def decided_by(name: str) -> set[str]:
    if any(name == word or name.startswith(f"{word}.") for word in NOT_DECISIVE):
        return set()
    if name == "data.holdout":  # from zero: what is held out is scored, and comes out of training
        return {*WEIGHTS, "untuned_eval", "plan"}
    return SECTIONS[name.partition(".")[0]]


@pytest.mark.parametrize("name", LEAVES)
def test_a_setting_names_what_it_decides_and_nothing_else(name: str, cfg: RunConfig) -> None:
    other = changed(cfg, name)
    assert other != cfg
    assert {
        stage for stage in DECIDES if stage_digest(cfg, stage) != stage_digest(other, stage)
    } == decided_by(name)


def test_held_out_rows_make_the_data_part_of_the_untuned_scores(cfg: RunConfig) -> None:
    held = copy.deepcopy(cfg)
    held.data.holdout = 4
    assert stage_digest(held, "untuned_eval") != stage_digest(cfg, "untuned_eval")
    assert stage_digest(changed(held, "data.seed"), "untuned_eval") != stage_digest(
        held, "untuned_eval"
    )


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (("dtype=bf16", "dq=false"), "dtype.blocksize"),
        (("dtype=bf16", "dq=false"), "dtype.backend"),
        (("dtype=int8", "dq=false"), "dtype.blocksize"),
        (("dtype=bf16", "dq=false", "lora=none"), "lora.r"),
        (("dtype=bf16", "dq=false", "lora=none"), "lora.dropout"),
    ],
)
def test_a_setting_that_nothing_reads_names_nothing(
    words: tuple[str, ...], setting: str, configured: Callable[..., RunConfig]
) -> None:
    one = configured("model=tiny", *words)
    two = changed(one, setting)
    assert one != two
    assert {
        stage for stage in DECIDES if stage_digest(one, stage) != stage_digest(two, stage)
    } == set()


def test_size_tuned_values_count_where_they_are_used(
    configured: Callable[..., RunConfig],
) -> None:
    one, two = configured("model=tiny"), configured("model=tiny", "model.tuned.lr=0.5")
    assert stage_digest(one, "train") != stage_digest(two, "train")
    assert stage_digest(one, "untuned") == stage_digest(two, "untuned")


def test_a_folder_counts_by_the_names_and_contents_of_its_files(
    cfg: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "task.yaml").write_text("task: mine")
    cfg = copy.deepcopy(cfg)
    cfg.eval.include_path = str(tmp_path)
    keys_seen = {stage_digest(cfg, "eval")}
    for change in (
        lambda: (tmp_path / "task.yaml").write_text("task: other"),
        lambda: (tmp_path / "task.yaml").rename(tmp_path / "renamed.yaml"),
        lambda: (tmp_path / "second.yaml").write_text("task: second"),
    ):
        change()
        keys_seen.add(stage_digest(cfg, "eval"))
    assert len(keys_seen) == 4


@pytest.mark.parametrize(
    ("setting", "stage"),
    [("data.path", "train"), ("eval.perplexity_file", "eval"), ("generate.questions", "generate")],
)
def test_a_file_counts_by_its_contents(
    setting: str, stage: str, cfg: RunConfig, tmp_path: Path
) -> None:
    section, leaf = setting.split(".")

    def named_by(text: str, *, folder: str) -> str:
        path = tmp_path / folder / "mine.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        other = copy.deepcopy(cfg)
        other.data.name = "local"
        setattr(getattr(other, section), leaf, str(path))
        return stage_digest(other, stage)

    first = named_by("a,b", folder="x")
    assert named_by("a,b", folder="y") == first
    assert named_by("a,c", folder="x") != first


@pytest.mark.parametrize(
    ("section", "stage"), [("data", "train"), ("eval", "eval"), ("generate", "generate")]
)
def test_a_prompt_template_of_a_file_counts_by_its_contents_and_a_name_by_itself(
    section: str, stage: str, cfg: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named_by(template: str) -> str:
        other = copy.deepcopy(cfg)
        getattr(other, section).template = template
        return stage_digest(other, stage)

    monkeypatch.chdir(tmp_path)
    plain = named_by("plain")
    (tmp_path / "plain").mkdir()  # a folder of that name is not it
    assert named_by("plain") == plain
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text("prompt: '{source}'")
    first = named_by("x/mine.yaml")
    assert named_by("y/mine.yaml") == first != plain
    (tmp_path / "x" / "mine.yaml").write_text("prompt: '{instruction}'")
    assert named_by("x/mine.yaml") != first
