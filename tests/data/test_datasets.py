import pytest
from omegaconf import OmegaConf
from shipped_data import CONF, NAMES, data_section
from shipped_data import data_config as config

from qlora_repro.config.registry import DATASETS
from qlora_repro.data.datasets import hash_examples, load_examples, split_holdout
from qlora_repro.data.procedural import draw_test_questions
from qlora_repro.data.templates import TEMPLATES
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.records import Example

ROWS = [Example(source=f"s{i}", target=f"t{i}", task=str(i % 3)) for i in range(50)]


def test_every_shipped_section_is_complete_and_registered() -> None:
    assert DATASETS.keys() == NAMES
    for name in NAMES:
        section = data_section(name)
        assert not OmegaConf.missing_keys(section)
        assert section.name == name
        assert section.template in TEMPLATES
        assert (CONF / f"{name}.yaml").read_text().startswith("# ")


def test_lengths_are_those_of_table_9() -> None:
    lengths = {
        name: (config(name).max_source_len, config(name).max_target_len)
        for name in ("alpaca", "flan_v2", "self_instruct", "unnatural", "chip2", "longform")
    }
    assert lengths.pop("longform") == (512, 1024)
    assert set(lengths.values()) == {(384, 128)}
    assert (config("oasst1").max_target_len, config("hh_rlhf").max_target_len) == (512, 768)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="the nearest is 'plain'"):
        load_examples(config("procedural", template="plane"))
    with pytest.raises(DataError, match=r"data.path is empty"):
        load_examples(config("alpaca", path=None))


def test_procedural_rows_share_no_text_with_any_held_out_question() -> None:
    rows = load_examples(config("procedural"))
    assert len(rows) == 640
    asked = draw_test_questions(None, per_task=50, seed=1)
    sources = {row.source for row in rows}
    assert not any(f"{question.question}\nAnswer:" in sources for question in asked)
    assert all(row.target.startswith(" ") for row in rows)


def test_procedural_rows_need_a_number() -> None:
    with pytest.raises(DataError, match=r"data.rows is null"):
        load_examples(config("procedural", rows=None))


def test_a_holdout_takes_rows_away_from_training_in_order() -> None:
    train, held = split_holdout(ROWS, holdout=8, seed=0)
    assert (len(train), len(held)) == (42, 8)
    assert sorted([*train, *held], key=ROWS.index) == ROWS
    assert held == sorted(held, key=ROWS.index)
    assert train == sorted(train, key=ROWS.index)
    assert (train, held) == split_holdout(ROWS, holdout=8, seed=0)
    assert held != split_holdout(ROWS, holdout=8, seed=1)[1]
    assert split_holdout(ROWS, holdout=0, seed=0) == (ROWS, [])


@pytest.mark.parametrize("holdout", [-1, 50, 99])
def test_a_holdout_that_leaves_nothing_is_refused(holdout: int) -> None:
    with pytest.raises(DataError, match=f"data.holdout is {holdout} and there are 50 rows"):
        split_holdout(ROWS, holdout=holdout, seed=0)


def test_a_fingerprint_changes_with_any_field_and_with_the_order() -> None:
    changed = [
        ROWS[::-1],
        ROWS[:-1],
        [*ROWS[:-1], Example(source="s49", target="t49", task="x")],
        [*ROWS[:-1], Example(source="s49t", target="49", task="1")],
    ]
    digests = {hash_examples(rows) for rows in [ROWS, *changed]}
    assert len(digests) == 5
    assert all(len(digest) == 64 for digest in digests)
    assert hash_examples(ROWS) == hash_examples(list(ROWS))
