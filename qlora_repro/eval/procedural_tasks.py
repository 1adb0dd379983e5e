"""The embedded lm-eval tasks: held-out procedural questions, by choice and by exact match."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import datasets
from lm_eval.tasks._yaml_loader import load_yaml

from qlora_repro.data import procedural, templates
from qlora_repro.errors import ConfigError
from qlora_repro.eval import metrics
from qlora_repro.records import Metric

TASK_FOLDER = Path(__file__).parent / "tasks"
OUTER_CHARACTERS = " \t\n.,;:!?\"'`()[]{}"  # no minus sign: -3 is not 3


class Question(Protocol):
    """What this module reads of a procedural question."""

    @property
    def task(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def choices(self) -> Sequence[str]: ...


def held_out_questions(
    tasks: list[str] | None, *, per_task: int | None, seed: int
) -> list[Question]:
    """Draw the questions of both tasks from seeds that training never uses."""
    if per_task is None or per_task < 1:
        raise ConfigError(
            f"eval.n is {per_task}, and the procedural tasks need a number of questions per task, "
            "such as eval.n=20"
        )
    return list(procedural.draw_test_questions(tasks, per_task=per_task, seed=seed))


def choice_doc(question: Question, *, template: str) -> dict[str, Any]:
    """Return the multiple-choice document of a question: the choices are whole answers.

    Likelihoods are compared in the prompt that was trained with, so the task asks for what tuning
    teaches, and not for the letter of an option.
    """
    choices = list(question.choices)
    return {
        "task": question.task,
        "prompt": templates.render_prompt(template, question.question),
        "choices": [templates.render_target(template, choice) for choice in choices],
        "gold": choices.index(question.answer),
    }


def exact_doc(question: Question, *, template: str) -> dict[str, Any]:
    """Return the document of a question whose answer the model writes."""
    return {
        "task": question.task,
        "prompt": templates.render_prompt(template, question.question),
        "answer": question.answer,
    }


DOCUMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "procedural_mc": choice_doc,
    "procedural_exact": exact_doc,
}


def build_task(
    name: str, questions: Sequence[Question], *, template: str, max_new_tokens: int
) -> dict[str, Any]:
    """Return an lm-eval task configuration: the YAML of `name` with its questions filled in."""
    if name == "procedural_mc":  # a question with one choice has nothing to choose
        questions = [question for question in questions if len(question.choices) > 1]
    rows = [DOCUMENTS[name](question, template=template) for question in questions]
    test = datasets.Dataset.from_list(rows)
    spec: dict[str, Any] = load_yaml(TASK_FOLDER / f"{name}.yaml")
    spec["custom_dataset"] = lambda **metadata: {"test": test}
    if spec["output_type"] == "generate_until":
        spec["generation_kwargs"] = {**spec["generation_kwargs"], "max_gen_toks": max_new_tokens}
    return spec


def normalize_answer(answer: str) -> str:
    """Lower the case, fold spaces, and drop outer spaces and punctuation.

    >>> normalize_answer("  Tuesday. "), normalize_answer("-3"), normalize_answer("a  B!")
    ('tuesday', '-3', 'a b')
    """
    return re.sub(r"\s+", " ", answer).strip(OUTER_CHARACTERS).lower()


def exact_match(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score one written answer: 1.0 when it equals the right one after `normalize_answer`."""
    return {"exact_match": float(normalize_answer(results[0]) == normalize_answer(doc["answer"]))}


def detail_metrics(
    samples: Sequence[Mapping[str, Any]], *, run_id: str, task: str
) -> Iterator[Metric]:
    """Yield what an embedded task adds: accuracy by kind of question, and the level of chance."""
    kinds: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for sample in samples:
        kinds[sample["doc"]["task"]].append(sample)
    for kind, rows in sorted(kinds.items()):
        name = rows[0]["metrics"][0]
        values = [row[name] for row in rows]
        yield from metrics.mean_metric(values, run_id=run_id, task=f"{task}/{kind}", name=name)
    if "choices" in samples[0]["doc"]:
        yield Metric(
            run_id=run_id,
            task=task,
            name="chance",
            value=chance_accuracy(samples),
            stderr=None,  # the choices are given, not drawn
            n=len(samples),
        )


def chance_accuracy(samples: Sequence[Mapping[str, Any]]) -> float:
    """Return the expected accuracy of guessing among each document's choices.

    >>> chance_accuracy([{"doc": {"choices": ["a", "b"]}}, {"doc": {"choices": list("abcd")}}])
    0.375
    """
    return sum(1 / len(sample["doc"]["choices"]) for sample in samples) / len(samples)
