from dataclasses import replace
from typing import Any

import pytest
from shipped_data import data_config

from qlora_repro.config.schema import DataConfig
from qlora_repro.data.tokenization import (
    encode_examples,
    truncated_share,
    unended_share,
)
from qlora_repro.errors import DataError
from qlora_repro.records import Example

LIMITS = data_config(
    "alpaca",
    max_source_len=8,
    max_target_len=4,
    train_on_source=False,
    truncated_eos=True,
    max_truncated=1.0,
)
AUTHORS = replace(LIMITS, truncated_eos=False)
EOS, BOS = 2, 1


class Letters:
    """A token a letter; starts a text with BOS and ends it with EOS when asked to."""

    eos_token_id: int | None = EOS
    bos_token_id: int | None = BOS

    def __init__(self, *, bos: bool = False, ends: bool = False) -> None:
        self.bos, self.ends = bos, ends

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [ord(letter) for letter in text]
        if add_special_tokens:
            ids = [BOS] * self.bos + ids + [EOS] * self.ends
        return {"input_ids": ids}


def one(source: str, target: str, limits: DataConfig = LIMITS, **kwargs: Any) -> Any:
    example = Example(source=source, target=target)
    return encode_examples([example], Letters(**kwargs), limits, kind="causal")[0]


def test_target_alone_is_learned_with_its_end_of_sequence() -> None:
    row = one("ab", "c")
    assert row.ids == [97, 98, 99, EOS]
    assert row.labels == [-100, -100, 99, EOS]
    assert row.trained == 2


def test_source_is_learned_too_when_asked_but_never_the_first_token() -> None:
    row = one("ab", "c", replace(LIMITS, train_on_source=True))
    assert row.labels == [-100, 98, 99, EOS]


def test_beginning_of_sequence_is_there_where_the_tokenizer_adds_it() -> None:
    assert one("ab", "c", bos=True).ids == [BOS, 97, 98, 99, EOS]


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_a_cut_target_keeps_its_end_of_sequence_where_that_is_asked_for(kind: str) -> None:
    example = Example(source="a" * 20, target="b" * 20)
    row = encode_examples([example], Letters(ends=True), LIMITS, kind=kind)[0]
    assert row.labels[-1] == EOS
    assert row.trained == LIMITS.max_target_len
    assert row.truncated
    if kind == "seq2seq":
        assert row.ids == [97] * 7 + [EOS]


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_a_cut_target_loses_its_end_of_sequence_as_the_authors_cut_it(kind: str) -> None:
    example = Example(source="a" * 20, target="bcdefg")
    row = encode_examples([example], Letters(ends=True), AUTHORS, kind=kind)[0]
    assert list(row.labels[-4:]) == [98, 99, 100, 101]  # the text and its end, cut to 4 tokens
    assert row.trained == AUTHORS.max_target_len
    assert (row.truncated, row.unended) == (True, True)


@pytest.mark.parametrize("limits", [LIMITS, AUTHORS])
def test_target_that_just_fits_is_not_cut(limits: DataConfig) -> None:
    fits = one("ab", "ccc", limits)
    assert not fits.truncated
    assert fits.labels[-1] == EOS
    assert one("ab", "cccc", limits).truncated


def test_rows_without_an_end_of_sequence_are_counted() -> None:
    examples = [Example(source="a", target="b" * n) for n in (1, 3, 4, 9)]
    shares = [
        unended_share(encode_examples(examples, Letters(), limits, kind="causal"))
        for limits in (LIMITS, AUTHORS)
    ]
    assert shares == [0.0, 0.5]  # the third loses its end of sequence alone


def test_share_of_truncated_rows_is_counted_and_fails_above_the_limit() -> None:
    examples = [Example(source="a", target="b" * n) for n in (1, 1, 1, 9)]
    rows = encode_examples(examples, Letters(), LIMITS, kind="causal")
    assert truncated_share(rows) == 0.25
    with pytest.raises(DataError, match=r"25.0% of 4 rows are longer .* allows 10.0%"):
        encode_examples(examples, Letters(), replace(LIMITS, max_truncated=0.1), kind="causal")


def test_class_must_be_a_number() -> None:
    example = Example(source="a", target="good")
    with pytest.raises(DataError, match="not 'good'"):
        encode_examples([example], Letters(), LIMITS, kind="classification")


def test_tokenizer_without_end_of_sequence_is_refused() -> None:
    class Endless(Letters):
        eos_token_id = None

    example = Example(source="a", target="b")
    with pytest.raises(DataError, match="no end-of-sequence token"):
        encode_examples([example], Endless(), LIMITS, kind="causal")


@pytest.mark.parametrize("target", ["3", "-1"])
def test_a_class_that_the_model_has_no_output_for_is_refused(target: str) -> None:
    said = rf"the class {target}, and with model.num_labels=3 they go from 0 to 2"
    with pytest.raises(DataError, match=said):
        encode_examples(
            [Example(source="a", target=target)],
            Letters(),
            LIMITS,
            kind="classification",
            num_labels=3,
        )


def test_a_regression_takes_any_number_and_nothing_else() -> None:
    rows = [Example(source="a", target=target) for target in ("3.8", "-1")]
    made = encode_examples(rows, Letters(), LIMITS, kind="classification", num_labels=1)
    assert [row.labels for row in made] == [[3.8], [-1.0]]
    with pytest.raises(DataError, match="needs a number as target, not 'high'"):
        encode_examples(
            [Example(source="a", target="high")],
            Letters(),
            LIMITS,
            kind="classification",
            num_labels=1,
        )


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_a_source_that_is_too_long_gives_way_to_the_longest_one_that_fits(kind: str) -> None:
    def source_of(*shorter: str) -> tuple[str, bool]:
        example = Example(source="a" * 20, target="t", shorter=shorter)
        row = encode_examples([example], Letters(), LIMITS, kind=kind)[0]
        ids = row.ids[:-2] if kind == "causal" else row.ids  # without the target
        return "".join(map(chr, ids)), row.truncated

    assert source_of("b" * 9, "c" * 8, "d") == ("c" * 8, False)
    assert source_of("b" * 9) == ("b" * 8, True)
