"""Examples to token ids: the source, the target and an end of sequence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from qlora_repro.config.schema import DataConfig
from qlora_repro.errors import DataError
from qlora_repro.records import Example


class Tokenizer(Protocol):
    """What encoding needs of a tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]: ...


@dataclass(frozen=True, kw_only=True)
class EncodedExample:
    """One training row in tokens. For a causal model `ids` holds source and target in one piece."""

    ids: list[int]  # what the model reads
    labels: Sequence[float]  # -100 where nothing is learned; seq2seq: the decoder's targets; one
    # class for a classifier, one number for a regression
    truncated: bool
    unended: bool = False  # the cut took its end of sequence, so it does not teach to stop

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def trained(self) -> int:
        """Tokens that the loss counts; a causal model cannot be asked for its first token."""
        return sum(label != -100 for label in self.labels)


def encode_examples(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    cfg: DataConfig,
    *,
    kind: str,
    num_labels: int | None = None,
) -> list[EncodedExample]:
    """Tokenize every example, within the lengths of the data section.

    A source that is too long gives way to a shorter one that the example has, and the last of them
    loses its tail. A target loses its tail too: with `cfg.truncated_eos` an end of sequence takes
    its last place, without it is cut off too, as in the authors' code.

    Args:
        examples: The rows.
        tokenizer: The model's.
        cfg: The data section.
        kind: causal, seq2seq or classification.
        num_labels: Of a classifier; 1 is a regression.

    Raises:
        DataError: More rows were cut than `cfg.max_truncated` allows, or a target cannot be used.
    """
    encoders: dict[str, Callable[[Example, Tokenizer, DataConfig], EncodedExample]] = {
        "causal": _encode_causal,
        "seq2seq": _encode_seq2seq,
        "classification": partial(_encode_classification, num_labels=num_labels),
    }
    rows = [encoders[kind](example, tokenizer, cfg) for example in examples]
    share = truncated_share(rows)
    if share > cfg.max_truncated:
        raise DataError(
            f"{share:.1%} of {len(rows)} rows are longer than data.max_source_len="
            f"{cfg.max_source_len} or data.max_target_len={cfg.max_target_len}, and "
            f"data.max_truncated allows {cfg.max_truncated:.1%}; raise one of the three"
        )
    return rows


def truncated_share(rows: Sequence[EncodedExample]) -> float:
    """Return the share of rows that lost tokens, in [0, 1]."""
    return sum(row.truncated for row in rows) / len(rows)


def unended_share(rows: Sequence[EncodedExample]) -> float:
    """Return the share of rows whose target has no end of sequence, in [0, 1]."""
    return sum(row.unended for row in rows) / len(rows)


def adds_bos(tokenizer: Tokenizer) -> bool:
    """Whether this tokenizer starts a plain text with its beginning-of-sequence token."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def _tokenize(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def _encode_source(
    example: Example, read: Callable[[str], list[int]], room: int
) -> tuple[list[int], bool]:
    """Return the tokens of the first of the sources that fits, else of the last, and if it fits."""
    ids: list[int] = []
    for text in (example.source, *example.shorter):
        ids = read(text)
        if len(ids) <= room:
            return ids, True
    return ids, False


def _encode_target(
    example: Example, tokenizer: Tokenizer, cfg: DataConfig
) -> tuple[list[int], bool]:
    if tokenizer.eos_token_id is None:
        raise DataError(
            "the tokenizer has no end-of-sequence token, so a model could not learn to stop"
        )
    ids, room = _tokenize(example.target, tokenizer), cfg.max_target_len
    if len(ids) < room:
        return [*ids, tokenizer.eos_token_id], False
    return [*ids[: room - 1], tokenizer.eos_token_id if cfg.truncated_eos else ids[room - 1]], True


def _encode_causal(example: Example, tokenizer: Tokenizer, cfg: DataConfig) -> EncodedExample:
    target, cut_target = _encode_target(example, tokenizer, cfg)
    bos = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    room = cfg.max_source_len - len(bos)
    source, fits = _encode_source(example, lambda text: _tokenize(text, tokenizer), room)
    source, cut_source = source[:room], not fits
    ids = [i for i in (*bos, *source, *target) if i is not None]
    learned = len(ids) if cfg.train_on_source else len(target)
    # The first token has nothing before it to be predicted from.
    labels = [-100] * (len(ids) - learned) + ids[len(ids) - learned :]
    labels[0] = -100
    unended = cut_target and not cfg.truncated_eos
    return EncodedExample(
        ids=ids, labels=labels, truncated=cut_source or cut_target, unended=unended
    )


def _encode_seq2seq(example: Example, tokenizer: Tokenizer, cfg: DataConfig) -> EncodedExample:
    target, cut_target = _encode_target(example, tokenizer, cfg)
    ids, fits = _encode_source(
        example, lambda text: tokenizer(text)["input_ids"], cfg.max_source_len
    )
    if not fits:
        ids = [*ids[: cfg.max_source_len - 1], ids[-1]]  # the tokenizer's own ending
    unended = cut_target and not cfg.truncated_eos
    return EncodedExample(ids=ids, labels=target, truncated=not fits or cut_target, unended=unended)


def _encode_classification(
    example: Example, tokenizer: Tokenizer, cfg: DataConfig, *, num_labels: int | None
) -> EncodedExample:
    ids = tokenizer(example.source)["input_ids"]
    cut = len(ids) > cfg.max_source_len
    if cut:
        ids = [*ids[: cfg.max_source_len - 1], ids[-1]]
    return EncodedExample(ids=ids, labels=[parse_label(example.target, num_labels)], truncated=cut)


def parse_label(target: str, num_labels: int | None) -> float:
    """Return a classifier's target: a class number, or for a regression any number.

    Raises DataError for a target that is neither, or that the model has no output for.

    >>> parse_label("2", 3), parse_label("3.8", 1)
    (2, 3.8)
    """
    try:
        label = float(target) if num_labels == 1 else int(target)
    except ValueError as error:
        wanted = "a number" if num_labels == 1 else "a class number"
        raise DataError(
            f"classification needs {wanted} as target, not {target!r}; map the classes to 0, 1, …"
        ) from error
    if num_labels is not None and num_labels > 1 and not 0 <= label < num_labels:
        raise DataError(
            f"a row has the class {label}, and with model.num_labels={num_labels} they go from 0 "
            f"to {num_labels - 1}; raise model.num_labels or map the classes"
        )
    return label
