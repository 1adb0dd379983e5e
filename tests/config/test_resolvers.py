"""Passes over the data, and the scale of a preset."""

from collections.abc import Callable

import pytest

from qlora_repro.config.resolvers import count_steps
from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.store.run_id import stage_digest


def test_no_step_sees_rows_that_the_passes_do_not_have_but_the_last() -> None:
    for rows, epochs, batch in ((50_000, 1, 16), (50_001, 1, 16), (7, 3, 2), (10, 0.5, 4)):
        made = count_steps(epochs, 0, rows, 0, batch)
        assert (made - 1) * batch < rows * epochs <= made * batch
    assert count_steps(2, 0, 120, 20, 10) == count_steps(2, 0, 100, 0, 10)


def test_passes_over_the_data_name_the_same_run_as_their_steps(
    configured: Callable[..., RunConfig],
) -> None:
    passes = configured("train.epochs=2")
    assert passes.train.max_steps == 160  # 640 rows in batches of 8
    assert stage_digest(passes, "train") == stage_digest(configured("train.max_steps=160"), "train")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train.epochs=2", "data=alpaca"], r"data\.rows is null; write data\.rows=NUMBER$"),
        (["train.epochs=2", "train.max_steps=3"], r"makes 160 steps, and train\.max_steps is 3"),
        (["train.epochs=0"], r"train\.epochs is 0, and must be more than 0"),
        (["train=none", "train.epochs=1"], r"makes 640 steps, and train\.max_steps is 0"),
        (["scale=small"], "is a preset's smaller twin, and there is none here"),
        (["experiments=smoke", "scale=small"], "is a preset's smaller twin, and there is none"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: list[str], says: str, configured: Callable[..., RunConfig]
) -> None:
    with pytest.raises(ConfigError, match=says):
        configured(*words)
