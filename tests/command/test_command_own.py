"""What is the user's own: rows in a csv file, lm-eval tasks in a folder. No code changes."""

import json

import pytest
from running import Outcome, run_command

TASK = """
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: QUESTIONS}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""
QUESTIONS = [
    {"question": "The capital of France is", "choices": ["Paris", "Rome"], "answer": 0},
    {"question": "The capital of Italy is", "choices": ["Paris", "Rome"], "answer": 1},
    {"question": "The capital of Spain is", "choices": ["Oslo", "Madrid"], "answer": 1},
]
WORDS = [
    *("model=tiny", "dtype=bf16", "train.max_steps=2", "data=local", "data.path=rows.csv"),
    *("data.columns.source=ask", "data.columns.target=say"),
    *("eval=custom", "eval.tasks=[capitals]", "eval.include_path=tasks"),
]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Outcome]:
    """The same command, two times in one folder."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "rows.csv").write_text(
        "say,ask\n" + "".join(f"{n + n},{n} + {n} =\n" for n in range(9))
    )
    (folder / "tasks").mkdir()
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (folder / "tasks" / "capitals.yaml").write_text(TASK.replace("QUESTIONS", str(questions)))
    return run_command(folder, *WORDS), run_command(folder, *WORDS)


def test_own_rows_train_and_own_tasks_score(twice: tuple[Outcome, Outcome]) -> None:
    first, _ = twice
    assert (first.code, first.err) == (0, "")
    assert "training on 9 rows" in first.out
    answers = next(iter(first.runs[0].glob("answers-*.jsonl"))).read_text().splitlines()
    assert [json.loads(line)["task"] for line in answers] == ["capitals"] * 3
    row = next(line for line in first.out.splitlines() if line.startswith("│ capitals"))
    assert [cell.strip() for cell in row.split("│")][1:4] == ["capitals", "acc", "3"]


def test_dq_that_is_only_the_default_is_dropped_with_a_16_bit_dtype(
    twice: tuple[Outcome, Outcome],
) -> None:
    first, _ = twice
    assert first.out.startswith("tiny, bf16, lora all r=64, ")
    assert first.runs[0].name.startswith("tiny-bf16-all-r64-local-")


def test_finished_stages_are_skipped_and_named(twice: tuple[Outcome, Outcome]) -> None:
    _, second = twice
    assert (second.code, second.err) == (0, "")
    skipped = [line for line in second.out.splitlines() if line.endswith("in the store, skipped")]
    assert [line.partition(":")[0] for line in skipped] == [
        "scores before tuning",
        "training",
        "scores after tuning",
    ]
    assert "loading" not in second.out
    tables = [out.out[out.out.index("┏") :].splitlines()[:5] for out in twice]
    assert tables[0] == tables[1]
