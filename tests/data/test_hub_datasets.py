from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.utils import httpx
from shipped_data import data_config as config

from qlora_repro.data import hub_datasets
from qlora_repro.data.datasets import load_examples
from qlora_repro.errors import DataError
from qlora_repro.records import Example

Hub = dict[str | None, list[dict[str, Any]]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hub], list[dict[str, Any]]]:
    """Put tables, by subset, in place of the hub; return a function that says what was asked."""

    def fill(tables: Hub) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def load(path: str, name: str | None, **rest: Any) -> Dataset:
            asked.append({"path": path, "name": name, **rest})
            return Dataset.from_list(tables[name])

        monkeypatch.setattr(hub_datasets, "load_dataset", load)
        return asked

    return fill


def alpaca_rows(count: int) -> list[dict[str, str]]:
    return [{"instruction": f"Do {i}.", "input": "", "output": f"Done {i}."} for i in range(count)]


def test_the_hub_is_asked_for_the_revision_the_files_and_the_split(hub: Any) -> None:
    asked = hub({None: [{"text": "<human>: a\n<bot>: b", "metadata": {"source": "x"}}]})
    load_examples(config("chip2", revision="abc"), split="train[:1%]")
    assert asked == [
        {
            "path": "laion/OIG",
            "name": None,
            "data_files": "unified_chip2.jsonl",
            "revision": "abc",
            "split": "train[:1%]",
        }
    ]


def test_a_subsample_is_in_order_without_repeats_and_follows_the_seed(hub: Any) -> None:
    hub({None: alpaca_rows(40)})
    everything = load_examples(config("alpaca"))
    some = load_examples(config("alpaca", rows=10))
    assert len(some) == 10
    assert some == [row for row in everything if row in some]
    assert some != everything[:10]
    assert some == load_examples(config("alpaca", rows=10))
    assert some != load_examples(config("alpaca", rows=10, seed=1))
    assert load_examples(config("alpaca", rows=99)) == everything


def test_rows_count_examples_where_a_row_holds_many(hub: Any) -> None:
    instance = {"instruction_with_input": "Q", "input": "", "constraints": "None.", "output": "A"}
    row = {"instruction": "Q", "instances": [instance] * 3, "reformulations": []}
    hub({None: [row] * 4})
    assert len(load_examples(config("unnatural"))) == 12
    assert len(load_examples(config("unnatural", rows=5))) == 5


def test_glue_takes_each_task_from_its_own_subset(hub: Any) -> None:
    asked = hub(
        {
            "sst2": [{"sentence": "Good.", "label": 1, "idx": 0}],
            "mnli": [{"premise": "A.", "hypothesis": "B.", "label": 2, "idx": 0}],
        }
    )
    rows = load_examples(config("glue", tasks=["sst2", "mnli"]), split="validation")
    assert [(row.task, row.target) for row in rows] == [("sst2", "1"), ("mnli", "2")]
    assert [call["split"] for call in asked] == ["validation", "validation_matched"]
    assert load_examples(config("glue", tasks=None, config_name="sst2")) == rows[:1]
    with pytest.raises(DataError, match="no GLUE task 'sst-2'; the nearest of 9 is 'sst2'"):
        load_examples(config("glue", tasks=["sst-2"]))
    with pytest.raises(DataError, match="contradict"):
        load_examples(config("glue", tasks=["sst2"], config_name="mnli"))


def test_tasks_of_super_natural_instructions_are_chosen_before_rows_are_drawn(hub: Any) -> None:
    rows = [
        {
            "task_name": f"task{i % 4}_x",
            "id": f"{i}",
            "definition": "D",
            "inputs": "I",
            "targets": "T",
        }
        for i in range(40)
    ]
    hub({None: rows})
    uniform: dict[str, Any] = {"rows_per_task": None, "examples": 0}
    found = load_examples(config("super_ni", tasks=["task1_x", "task3_x"], rows=15, **uniform))
    assert len(found) == 15
    assert {row.task for row in found} == {"task1_x", "task3_x"}
    with pytest.raises(DataError, match="no super_ni task 'task9_x'; the nearest of 4"):
        load_examples(config("super_ni", tasks=["task9_x"]))


def instances(sizes: dict[str, int], *, answers: int = 1) -> list[dict[str, str]]:
    """Return rows of so many instances a task, each with so many right answers."""
    return [
        {
            "task_name": task,
            "id": f"{task}-{number}",
            "definition": f"Do {task}.",
            "inputs": f"{task} input {number}",
            "targets": f"answer {number}.{answer}",
        }
        for task, count in sizes.items()
        for number in range(count)
        for answer in range(answers)
    ]


def test_super_natural_instructions_are_drawn_as_tk_instruct_draws_them(hub: Any) -> None:
    hub({None: instances({"task1": 300, "task2": 150, "task3": 20}, answers=2)})
    cfg = config("super_ni")
    rows = load_examples(cfg)
    counts = {task: [row.task for row in rows].count(task) for task in ("task1", "task2", "task3")}
    assert counts == {"task1": 100, "task2": 100, "task3": 18}  # two of the 20 are shown
    assert rows == load_examples(cfg)
    assert rows != load_examples(config("super_ni", seed=1))
    asked = [row.source.rpartition("Input: ")[2].removesuffix("\nAnswer:") for row in rows]
    assert len(set(asked)) == len(rows)  # an instance is drawn once, whatever its answers
    for row in rows:
        assert row.source.count("\nInput: ") == 3
        assert row.source.count("\nAnswer: ") == 2
        assert [text.count("Example ") for text in row.shorter] == [1, 0]
    shown = {line for row in rows for line in row.shorter[0].split("\n") if "Input:" in line[:6]}
    firsts = {row.shorter[0].split("\n")[3].removeprefix("Input: ") for row in rows}
    assert len(firsts) == 3  # one task shows the same examples in every row
    assert not firsts & set(asked)
    assert len(shown) == len(rows) + 3


def test_a_task_of_one_instance_learns_it_and_shows_none(hub: Any) -> None:
    hub({None: instances({"task1": 1})})
    (row,) = load_examples(config("super_ni"))
    assert row.shorter == ()
    assert row.source == "Do task1.\n\ntask1 input 0\nAnswer:"


def test_flan_v2_is_mixed_from_its_parts_at_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str, name: str | None, **rest: Any) -> Dataset:
        columns = {"inputs": f"Q of {path} ", "targets": "A", "task_source": "S", "task_name": path}
        return Dataset.from_list([columns | {"inputs": f"Q{number}"} for number in range(600)])

    monkeypatch.setattr(hub_datasets, "load_dataset", load)
    found = [row.task for row in load_examples(config("flan_v2", rows=1000))]
    sets = {
        f"DataProvenanceInitiative/{name}_submix_original": count
        for name, count in (
            ("flan2021", 400),
            ("t0", 320),
            ("niv2", 200),
            ("cot", 50),
            ("dialog", 30),
        )
    }
    assert {name: found.count(name) for name in sets} == sets
    assert len(found) == 1000


def test_one_set_takes_the_place_of_the_mix(hub: Any) -> None:
    asked = hub({None: [{"inputs": "Q", "targets": "A", "_task_name": "cola"}]})
    assert load_examples(config("flan_v2", path="owner/other", mix=None)) == [
        Example(source="Q", target="A", task="cola")
    ]
    assert asked[0]["path"] == "owner/other"


def test_a_part_of_a_mix_that_cannot_be_reached_is_named_with_its_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> Dataset:
        raise ConnectionError("offline")

    monkeypatch.setattr(hub_datasets, "load_dataset", fail)
    with pytest.raises(DataError) as caught:
        load_examples(config("flan_v2"))
    message = str(caught.value)
    assert "`hf download DataProvenanceInitiative/flan2021_submix_original " in message
    assert "--local-dir DIR/flan2021_submix_original`, then set data.path=DIR" in message


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        (
            "alpaca",
            {"rows_per_task": 10},
            r"data\.rows_per_task is 10 and data=alpaca is not drawn",
        ),
        ("alpaca", {"examples": 2}, r"data\.examples is 2 and data=alpaca shows no solved"),
        ("procedural", {"mix": {"a": 1.0}}, r"does not go with data=procedural, .*data\.mix=null$"),
        ("flan_v2", {"tasks": ["x"]}, r"does not go with data=flan_v2, data\.tasks=\['x'\]"),
        ("flan_v2", {"rows": None}, r"data\.rows is null; a mix needs a number of rows"),
        ("alpaca", {"mix": {"a": 0.0}, "rows": 5}, r"of each set a share above 0$"),
    ],
)
def test_a_choice_of_rows_that_a_dataset_cannot_offer_is_refused(
    name: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        load_examples(config(name, **changes))


def test_tasks_are_refused_where_a_dataset_has_none(hub: Any) -> None:
    hub({None: alpaca_rows(1)})
    with pytest.raises(DataError, match="data=alpaca has no tasks to choose from"):
        load_examples(config("alpaca", tasks=["poems"]))


def test_a_missing_column_names_those_there_are(hub: Any) -> None:
    hub({None: [{"instruction": "a", "inputs": "", "output": "b"}]})
    with pytest.raises(
        DataError,
        match=r"yahma/alpaca-cleaned, row 1: there is no column 'input' among instruction, inputs, "
        r"output; the nearest is 'inputs'",
    ):
        load_examples(config("alpaca"))


def test_an_empty_dataset_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Dataset.from_dict({"instruction": [], "input": [], "output": []})
    monkeypatch.setattr(hub_datasets, "load_dataset", lambda *_, **__: empty)
    with pytest.raises(DataError, match="data=alpaca has no rows in yahma/alpaca-cleaned"):
        load_examples(config("alpaca"))


def test_many_empty_targets_are_refused_with_the_first_row(hub: Any) -> None:
    rows = alpaca_rows(30)
    rows[6]["output"] = " "
    hub({None: rows})
    with pytest.raises(DataError, match=r"1 of 30 rows of .* empty target, the first in row 7"):
        load_examples(config("alpaca"))


def test_a_stray_empty_target_in_a_published_set_is_left_out_and_logged(
    hub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = alpaca_rows(200)
    rows[6]["output"] = ""
    hub({None: rows})
    assert len(load_examples(config("alpaca"))) == 199
    assert "left out 1 rows with an empty target" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'yahma/alpaca-cleaned' on the Hub"),
        DatasetNotFoundError("Dataset 'yahma/alpaca-cleaned' doesn't exist on the Hub"),
        httpx.ConnectError("Name or service not known"),
    ],
)
def test_an_unreachable_hub_says_what_was_asked_and_which_command_helps(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Dataset:
        raise error

    monkeypatch.setattr(hub_datasets, "load_dataset", fail)
    with pytest.raises(DataError) as caught:
        load_examples(config("alpaca", revision="abc"))
    message = str(caught.value)
    assert "yahma/alpaca-cleaned (revision abc) could not be reached" in message
    assert (
        "`hf download yahma/alpaca-cleaned --repo-type dataset --revision abc --local-dir DIR`"
        in message
    )
    assert "data.path=DIR" in message
    assert "\n" not in message


def test_an_unknown_split_or_subset_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Dataset:
        raise ValueError("Unknown split \"dev\". Should be one of ['train'].\nmore")

    monkeypatch.setattr(hub_datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r'data.split=dev: Unknown split "dev"') as caught:
        load_examples(config("alpaca"), split="dev")
    assert "more" not in str(caught.value)


def test_a_folder_that_was_downloaded_takes_the_hub_s_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "unified_chip2.jsonl").write_text('{"text": "<human>: a\\n<bot>: b"}\n')
    (tmp_path / "set" / "unified_other.jsonl").write_text('{"text": "no marker"}\n')
    rows = load_examples(config("chip2", path=str(tmp_path / "set")))
    assert rows == [Example(source="a", target="b")]
