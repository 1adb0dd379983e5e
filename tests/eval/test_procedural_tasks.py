import pytest

from qlora_repro.data import templates
from qlora_repro.errors import ConfigError
from qlora_repro.eval import procedural_tasks


@pytest.mark.parametrize("template", list(templates.TEMPLATES))
def test_every_question_makes_both_documents(template: str) -> None:
    questions = procedural_tasks.held_out_questions(None, per_task=4, seed=1)
    assert len(questions) == 4 * len({question.task for question in questions})
    for question in questions:
        choice = procedural_tasks.choice_doc(question, template=template)
        right = choice["choices"][choice["gold"]]
        assert right == templates.render_target(template, question.answer)
        assert len(set(choice["choices"])) == len(choice["choices"]) > 1
        exact = procedural_tasks.exact_doc(question, template=template)
        assert (
            exact["prompt"]
            == choice["prompt"]
            == templates.render_prompt(template, question.question)
        )
        assert procedural_tasks.exact_match(exact, [right]) == {"exact_match": 1.0}
        wrong = choice["choices"][choice["gold"] - 1]
        assert procedural_tasks.exact_match(exact, [wrong]) == {"exact_match": 0.0}


@pytest.mark.parametrize("n", [None, 0, -3])
def test_no_number_of_questions_is_refused(n: int | None) -> None:
    with pytest.raises(ConfigError, match=f"eval.n is {n}"):
        procedural_tasks.held_out_questions(None, per_task=n, seed=1)


@pytest.mark.parametrize(
    ("reply", "answer", "expected"),
    [
        (" Yes.", "yes", 1.0),
        ("-3", "3", 0.0),
        ("13", "3", 0.0),
        ("", "3", 0.0),
        ("Friday!", "Friday", 1.0),
        ("10:30", "10:30", 1.0),
    ],
)
def test_exact_match_forgives_case_and_outer_marks_only(
    reply: str, answer: str, expected: float
) -> None:
    assert procedural_tasks.exact_match({"answer": answer}, [reply]) == {"exact_match": expected}


def test_equal_seeds_draw_equal_questions_and_others_do_not() -> None:
    first = procedural_tasks.held_out_questions(None, per_task=3, seed=1)
    assert procedural_tasks.held_out_questions(None, per_task=3, seed=1) == first
    assert procedural_tasks.held_out_questions(None, per_task=3, seed=2) != first
