"""The tasks of Figure 3's twin, on files of the form that they name."""

import gzip
import json
from pathlib import Path

import pytest
import yaml

from qlora_repro.eval import lm_eval

TASKS = Path(__file__).resolve().parents[2] / "experiments" / "tasks"
SAME = ("output_type", "doc_to_text", "doc_to_choice", "doc_to_target", "validation_split")


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piqa = [{"goal": f"Goal {i}", "sol1": "this", "sol2": "that", "label": i % 2} for i in range(3)]
    swag = [
        {"query": f"Line {i}", "choices": ["a", "b", "c", "d"], "label": i % 4} for i in range(600)
    ]
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "piqa_valid.jsonl").write_text("\n".join(map(json.dumps, piqa)))
    with gzip.open(tmp_path / "outputs" / "hellaswag_val.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, swag)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("working_folder")
def test_piqa_is_read_whole_and_hellaswag_from_both_ends() -> None:
    manager = lm_eval.index_tasks(["piqa_file", "hellaswag_file"], include_path=str(TASKS))
    tasks = manager.load(["piqa_file", "hellaswag_file"])["tasks"]
    piqa = list(tasks["piqa_file"].validation_docs())
    swag = list(tasks["hellaswag_file"].validation_docs())
    assert tasks["piqa_file"].doc_to_text(piqa[1]) == "Question: Goal 1\nAnswer:"
    assert tasks["piqa_file"].doc_to_choice(piqa[1]) == ["this", "that"]
    assert [tasks["piqa_file"].doc_to_target(doc) for doc in piqa] == [0, 1, 0]
    lines = [tasks["hellaswag_file"].doc_to_text(doc) for doc in swag]
    assert lines == [f"Line {i}" for i in (*range(250), *range(350, 600))]


@pytest.mark.parametrize("name", ["piqa", "hellaswag"])
def test_questions_are_put_as_lm_eval_puts_them(name: str) -> None:
    theirs = (lm_eval.BUILT_IN_TASKS / name / f"{name}.yaml").read_text().replace("!function ", "")
    built_in, ours = (
        yaml.safe_load(theirs),
        yaml.safe_load((TASKS / f"{name}_file.yaml").read_text()),
    )
    plain = [{key: str(task[key]).strip("{} ") for key in SAME} for task in (built_in, ours)]
    assert plain[0] == plain[1]
    assert {m["metric"] for m in ours["metric_list"]} == {
        m["metric"] for m in built_in["metric_list"]
    }
