"""Guard of the shape: every option composes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_repro.config.schema import RunConfig

ROOT = Path(__file__).resolve().parents[1]
GIVEN = {  # what a user must write beside the option
    "model=local": ["model.path={tmp}"],
    "data=local": [
        "data.path={tmp}/file",
        "data.columns.source=question",
        "data.columns.target=answer",
    ],
    "lora=regex": [r"lora.target='.*q_proj'"],
    "lora=none": ["dtype=bf16", "dq=false"],
    "eval=perplexity": ["eval.perplexity_file={tmp}/file"],
    "eval=custom": ["eval.tasks=[mine]", "eval.include_path={tmp}"],
    "generate=local": ["generate.questions={tmp}/file"],
    "generate=vicuna": ["generate.questions={tmp}/file"],
    "scale=small": ["experiments=table4_mmlu_by_dtype"],
    "generate=oa": ["generate.questions={tmp}/file"],
    "train=fsdp": ["train.micro_batch_size=4"],
}
STARTED = {"train=fsdp": {"RANK": "0", "WORLD_SIZE": "2"}}  # as torchrun starts a process
OPTIONS = [
    (path.parent.name, path.stem)
    for path in sorted((ROOT / "conf").glob("*/*.yaml"))
    if not path.stem.startswith("_") and path.parent.name != "method"  # which is no section
]


def written_beside(choice: str, folder: Path) -> list[str]:
    """Return what a user must write beside an option or a preset, with a file that is there."""
    (folder / "file").touch()
    return [word.format(tmp=folder) for word in GIVEN.get(choice, [])]


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_option_composes_into_a_whole_configuration_under_its_own_name(
    group: str,
    name: str,
    configured: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice = f"{group}={name}"
    for variable, value in STARTED.get(choice, {}).items():
        monkeypatch.setenv(variable, value)
    given = written_beside(choice, tmp_path)
    simulated = ["dtype.backend=simulated"] if choice == "dtype=int4" else []
    cfg = configured(choice, *given, *simulated)
    section = getattr(cfg, group)
    assert getattr(section, "name", name) == name


def test_smoke_preset_runs_every_stage_on_a_tiny_model(
    configured: Callable[..., RunConfig],
) -> None:
    cfg = configured("experiments=smoke")
    assert cfg.model.name == "tiny"
    assert cfg.stages == ["train", "eval", "generate"]
    assert cfg.train.max_steps > 0
    assert Path(str(cfg.generate.questions)).is_file()
