import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import lm_eval.evaluator
import pytest
from lm_eval.models.huggingface import HFLM
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from qlora_repro.config.schema import EvalConfig
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.eval import lm_eval as harness

Make = Callable[..., EvalConfig]


def write_task(folder: Path, name: str = "capitals", **changed: Any) -> None:
    """Write a user's own multiple-choice task and its data."""
    rows = [
        {"text": f"Capital {k}?", "options": ["Rome", "Oslo"], "right": k % 2} for k in range(5)
    ]
    data = folder / f"{name}.json"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    } | changed
    (folder / f"{name}.yaml").write_text(json.dumps(config))  # JSON is YAML


def test_a_users_task_folder_runs_and_agrees_with_plain_lm_eval(
    random_llama: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    eval_config: Make,
    tmp_path: Path,
) -> None:
    write_task(tmp_path)
    config = eval_config(tasks=["capitals"], include_path=str(tmp_path), num_fewshot=None)
    metrics, answers = harness.evaluate_tasks(random_llama, byte_tokenizer, config, run_id="r")
    manager = harness.TaskManager(include_defaults=False, include_path=str(tmp_path))
    task = manager.load(["capitals"])["tasks"]["capitals"]
    task.set_config("num_fewshot", 0)
    lm = HFLM(pretrained=random_llama, tokenizer=byte_tokenizer, backend="causal", batch_size=1)
    plain = lm_eval.evaluator.evaluate(lm, {"tasks": {"capitals": task}, "groups": {}})
    theirs = plain["results"]["capitals"]
    assert [metric.name for metric in metrics] == ["acc"]
    assert metrics[0].value == theirs["acc,none"]
    assert metrics[0].stderr == pytest.approx(theirs["acc_stderr,none"])
    samples = sorted(plain["samples"]["capitals"], key=lambda sample: sample["doc_id"])
    assert [answer.doc_hash for answer in answers] == [sample["doc_hash"] for sample in samples]


def test_a_group_gets_both_averages(
    random_llama: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    eval_config: Make,
    tmp_path: Path,
) -> None:
    write_task(tmp_path, "short")
    write_task(tmp_path, "long", doc_to_target="{{1 - right}}")
    short = tmp_path / "short.json"
    short.write_text("\n".join(short.read_text().splitlines()[:2]))
    group = {
        "group": "both",
        "task": ["short", "long"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (tmp_path / "both.yaml").write_text(json.dumps(group))
    config = eval_config(tasks=["both"], include_path=str(tmp_path))
    metrics, answers = harness.evaluate_tasks(random_llama, byte_tokenizer, config, run_id="r")
    table = {(metric.task, metric.name): metric for metric in metrics}
    assert Counter(answer.task for answer in answers) == {"short": 2, "long": 5}
    first, second = table["short", "acc"].value, table["long", "acc"].value
    assert first is not None
    assert second is not None
    assert table["both", "acc"].value == pytest.approx((2 * first + 5 * second) / 7)
    assert table["both", "acc_macro"].value == pytest.approx((first + second) / 2)
    assert table["both", "acc"].n == 7


def test_a_question_without_a_score_is_none_and_counted(
    random_llama: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    eval_config: Make,
    tmp_path: Path,
) -> None:
    code = "def score(doc, results):\n    return {'acc': None if doc['right'] else 1.0}\n"
    (tmp_path / "own_scores.py").write_text(code)
    write_task(tmp_path)
    path = tmp_path / "capitals.yaml"
    path.write_text(path.read_text()[:-1] + ', "process_results": !function own_scores.score}')
    config = eval_config(tasks=["capitals"], include_path=str(tmp_path))
    metrics, answers = harness.evaluate_tasks(random_llama, byte_tokenizer, config, run_id="r")
    assert [answer.value for answer in answers] == [1.0, None, 1.0, None, 1.0]
    found = {metric.name: (metric.value, metric.n) for metric in metrics}
    assert found == {"acc": (1.0, 3), "acc_missing": (pytest.approx(0.4), 5)}


def test_a_missing_task_folder_is_refused(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, eval_config: Make
) -> None:
    config = eval_config(include_path="/no/such/folder")
    with pytest.raises(ConfigError, match=r"/no/such/folder, which is not a folder"):
        harness.evaluate_tasks(random_llama, byte_tokenizer, config, run_id="r")


def test_an_unknown_task_is_refused_with_the_nearest_names(
    random_llama: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    eval_config: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(harness, "BUILT_IN_TASKS", harness.BUILT_IN_TASKS / "arc")
    write_task(tmp_path)
    with pytest.raises(ConfigError, match=r"'arc_eazy'.* arc_easy.*include_path=FOLDER"):
        harness.evaluate_tasks(
            random_llama, byte_tokenizer, eval_config(tasks=["arc_eazy"]), run_id="r"
        )
    config = eval_config(tasks=["kapitals"], include_path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"holds capitals$"):
        harness.evaluate_tasks(random_llama, byte_tokenizer, config, run_id="r")


def test_an_unreachable_data_set_is_named_with_the_command_that_helps(
    random_llama: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    eval_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(**asked: Any) -> None:
        raise ConnectionError(f"Couldn't reach '{asked['path']}' on the Hub (LocalEntryNotFound)")

    monkeypatch.setattr(harness, "BUILT_IN_TASKS", harness.BUILT_IN_TASKS / "piqa")
    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"hf download --repo-type dataset baber/piqa.*OFFLINE=1"):
        harness.evaluate_tasks(
            random_llama, byte_tokenizer, eval_config(tasks=["piqa"]), run_id="r"
        )


def test_a_missing_local_file_is_a_data_error(
    random_llama: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    eval_config: Make,
    tmp_path: Path,
) -> None:
    write_task(tmp_path)
    (tmp_path / "capitals.json").unlink()
    config = eval_config(tasks=["capitals"], include_path=str(tmp_path))
    with pytest.raises(DataError, match="check the data_files"):
        harness.evaluate_tasks(random_llama, byte_tokenizer, config, run_id="r")


def test_a_task_named_twice_is_refused(
    random_llama: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
    eval_config: Make,
    tmp_path: Path,
) -> None:
    write_task(tmp_path)
    config = eval_config(tasks=["capitals", "capitals"], include_path=str(tmp_path))
    with pytest.raises(ConfigError, match="names capitals twice"):
        harness.evaluate_tasks(random_llama, byte_tokenizer, config, run_id="r")


def test_a_chat_template_that_is_not_there_is_refused(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, eval_config: Make
) -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        harness.evaluate_tasks(
            random_llama, byte_tokenizer, eval_config(apply_chat_template=True), run_id="r"
        )


def test_no_tasks_no_scores(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, eval_config: Make
) -> None:
    none = harness.evaluate_tasks(random_llama, byte_tokenizer, eval_config(tasks=[]), run_id="r")
    assert none == ([], [])
