from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from qlora_repro.config.schema import EvalConfig, GenerateConfig
from qlora_repro.eval import lm_eval, procedural_tasks

ROOT = Path(__file__).parents[2]
GIVEN = {  # what a user must write
    "perplexity": ["eval.perplexity_file=text.txt"],
    "custom": ["eval.tasks=[mine]", "eval.include_path=tasks"],
    "local": ["generate.questions=q.jsonl"],
    "vicuna": ["generate.questions=q.jsonl"],
    "oa": ["generate.questions=q.jsonl"],
}


def options(group: str) -> list[str]:
    return sorted(
        path.stem for path in (ROOT / "conf" / group).glob("*.yaml") if path.stem != "_base"
    )


@pytest.fixture
def hydra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("QLORA_REPRO_ROOT", str(ROOT))
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def composed(group: str, option: str) -> dict[str, Any]:
    run = compose("config", overrides=[f"{group}={option}", *GIVEN.get(option, [])])
    section = OmegaConf.to_container(run[group], resolve=True)
    assert isinstance(section, dict)
    return {str(name): value for name, value in section.items()}


@pytest.mark.usefixtures("hydra")
@pytest.mark.parametrize("option", options("eval"))
def test_every_eval_option_has_exactly_the_fields_of_its_section(option: str) -> None:
    section = composed("eval", option)
    found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EvalConfig), section))
    assert isinstance(found, EvalConfig)
    assert found.name == option


@pytest.mark.usefixtures("hydra")
@pytest.mark.parametrize("option", options("generate"))
def test_every_generate_option_has_exactly_the_fields_of_its_section(option: str) -> None:
    section = composed("generate", option)
    found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(GenerateConfig), section))
    assert isinstance(found, GenerateConfig)
    assert found.name == option


@pytest.mark.usefixtures("hydra")
def test_every_task_that_we_ship_a_name_of_is_one_of_lm_evals() -> None:
    named = {
        task
        for option in options("eval")
        if option != "custom"
        for task in composed("eval", option)["tasks"]
    }
    folders = ("mmlu/default", "winogrande", "hellaswag", "piqa", "arc", "crows_pairs", "glue")
    manager = lm_eval.TaskManager(
        include_defaults=False, include_path=[lm_eval.BUILT_IN_TASKS / folder for folder in folders]
    )
    known = named - set(procedural_tasks.DOCUMENTS)
    assert known >= {"mmlu", "winogrande", "cola", "crows_pairs_english"}
    assert all(lm_eval.is_complete(name, manager) for name in known)
    assert lm_eval.task_datasets("mmlu", manager) == {"cais/mmlu"}
