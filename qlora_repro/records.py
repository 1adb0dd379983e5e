"""Frozen facts that cross stages: one JSON line each in the store, units in the comments."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Literal, Self

Verdict = Literal["better", "worse", "not resolved"]
PERPLEXITY = "perplexity"  # the task whose answers are tokens of a text, and its exponential score
LOSS = "nats_per_token"  # the score of each of these tokens


class CellState(StrEnum):
    """What came of a cell so far; the texts are those on the disk and in tables."""

    RUNNING = "running"
    DONE = "done"
    IN_STORE = "in the store"  # nothing was left to do
    FOLDED = "folded"  # an earlier cell of the sweep is the same
    BUSY = "busy"  # another process works on it
    NOT_BEGUN = "not begun"
    PROCESS_DIED = "ended"
    REFUSED = "refused"  # before anything was computed
    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"


FAILURES = (CellState.REFUSED, CellState.FAILED, CellState.OUT_OF_MEMORY)
UNFINISHED = (*FAILURES, CellState.RUNNING, CellState.PROCESS_DIED)  # at the end of a sweep


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training or test row: what the model reads and what it should answer."""

    source: str
    target: str  # never empty for training; a class name or index for sequence classification
    task: str = ""  # "letter_counting"; empty where the dataset has one task
    shorter: tuple[str, ...] = ()  # sources to take instead, in turn, where `source` is too long


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One aggregate score of one system on one task."""

    run_id: str  # the run whose weights were scored
    task: str  # "mmlu"
    name: str  # "acc"
    # A fraction in [0, 1] unless the name says otherwise; None when it could not be computed
    value: float | None
    stderr: float | None
    n: int  # questions scored


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One question's outcome: the row that pairs two runs."""

    run_id: str
    task: str
    name: str  # the metric, "acc"
    doc_id: int
    doc_hash: str  # lm-eval's hash of the document: equal hashes are the same question
    value: float | None  # None: no score could be read
    reply: str = ""  # what the model wrote or chose; empty for scores by likelihood


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The change from one system to another on the questions that both answered.

    Values are in the unit of the scores, a fraction for accuracies.
    """

    n: int  # pairs with a score on both sides
    unmatched: int  # questions that only one side was asked
    missing: int  # pairs of which at least one side has no score
    before: float | None  # mean over the pairs
    after: float | None
    difference: float | None  # after - before
    low: float | None  # 95% interval of the difference
    high: float | None
    p: float | None  # two-sided
    test: str  # "mcnemar" for single scores of 0 and 1, "sign flip" otherwise, "none" without pairs
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One generated answer to one question."""

    run_id: str
    question_id: str
    question: str
    answer: str
    n_tokens: int
    finish: str  # "eos", "stop" (a turn marker) or "length"
    seed: int
    benchmark: str = ""  # "vicuna", "oa", "procedural", or the stem of the question file
    category: str = ""  # of the question; empty where its file has none
    lang: str = ""
    reference: str = ""  # a right answer; empty where the question has none
    room: int | None = None  # new tokens that a long prompt left it; None: as many as asked for
    cut: int | None = None  # characters that its question lost at the beginning; None: none


@dataclass(frozen=True, kw_only=True)
class QuantError:
    """What some values lose in one data type; errors in units of each block's absmax."""

    n: int  # values
    mse: float  # mean squared error
    relative: float  # norm of the change over norm of the values; 0 where all are zeros
    entropy: float  # bits that a code carries


@dataclass(frozen=True, kw_only=True)
class QuantErrors(QuantError):
    """The same with where the values are from, in which type, and what could be had."""

    run_id: str
    source: str  # "weights", or the distribution that synthetic ones were drawn from
    name: str  # the module; empty for synthetic values
    layer: int | None
    role: str | None  # of lora.roles; None for synthetic values
    dtype: str
    blocksize: int
    dq: bool
    levels: int  # distinct ones
    # mse of the Lloyd-Max levels, as many, for the same values; None: unasked
    optimum: float | None


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """The levels of a data type, or the Lloyd-Max levels that it could have had."""

    run_id: str
    dtype: str
    fitted: str | None  # the distribution that Lloyd-Max levels are for; None: the type's own
    blocksize: int | None  # that they are for; None: any
    levels: list[float]  # ascending, in units of absmax


@dataclass(frozen=True, kw_only=True)
class Normality:
    """Whether the rows of a weight, its hidden units, look normal (Appendix F)."""

    run_id: str
    source: str  # "weights", or "normal" for synthetic ones of the same shape
    name: str  # the module; empty for all of them together
    layer: int | None
    role: str | None
    rows: int  # that were tested
    tested: int  # values of each row; the longest, for all weights together
    columns: int  # values that a row has
    rejected: float  # share of rows with p < 0.05, Shapiro-Wilk
    rejected_fdr: float  # share that Benjamini-Hochberg rejects at a false discovery rate of 5%
    kurtosis: float | None  # excess, mean over rows; 0 when normal, None when all are constant
    probabilities: list[float]
    quantiles: list[float]  # of the values about their row's mean, in its standard deviations


@dataclass(frozen=True, kw_only=True)
class SramQuantiles:
    """How far means of chunks' quantiles are from a sample's own quantiles (Section 2)."""

    run_id: str
    distribution: str  # of synthetic values
    chunk: int  # values
    count: int  # chunks averaged
    levels: int  # probabilities compared, evenly spaced
    mean: float  # absolute error, in the distribution's own units
    largest: float
    outward: float  # mean error away from the median; negative: towards it


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """What training takes, in bytes."""

    weights: int
    scales: int
    adapter_weights: int
    gradients: int
    optimizer: int
    copies: int  # 16-bit ones of weights that train in float32
    activations: int  # at the first step of the backward pass, as the run is set
    activations_checkpointed: int
    activations_unchecked: int
    logits: int  # and what the loss makes of them
    peak: int  # less than the sum, as parts take turns
    when: str  # it is reached
    busy: int  # the most in forward and backward pass without the optimizer's states
    stepping: int  # at the optimizer's step, without them


@dataclass(frozen=True, kw_only=True)
class InferenceMemory:
    """What answering takes beside weights, scales and adapters, in bytes."""

    cache: int  # keys and values
    inference_activations: int
    inference_logits: int
    inference_peak: int  # of all


@dataclass(frozen=True, kw_only=True)
class MemoryPlan(TrainingMemory, InferenceMemory):
    """What a run would take, predicted from the architecture."""

    run_id: str
    model: str
    dtype: str
    dq: bool
    simulated: bool
    lora: str
    r: int | None  # None: every weight trains
    optim: str
    adapters: str  # what they train in
    rows: int  # sequences in a forward pass
    length: int  # tokens of each
    checkpointing: bool
    accumulates: bool  # gradients wait for further micro-batches
    params: int
    trained: int
    bits: float | None  # a quantized parameter, constants included; None: nothing is packed
    stand_in: str | None = None  # what stands in for what, where the run is a smaller twin


@dataclass(frozen=True, kw_only=True)
class Match:
    """What a judge is shown: a question and two answers, in this order (Section 5)."""

    question_id: str
    question: str
    category: str  # "coding", "math"; empty where the benchmark has none
    lang: str
    first: str  # the system whose answer is shown first
    second: str
    answer_first: str
    answer_second: str
    reference: str  # a right answer; empty where the question has none


class MatchVerdict(StrEnum):
    """Whose answer is better, by the order in which they are shown."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"


class ParseStatus(StrEnum):
    """What a judge's reply holds; one that only lenient rules can read is "recovered:RULE"."""

    OK = "ok"
    HAND_FILLED = "hand_filled"  # a score that people filled in
    UNPARSED = "unparsed"
    REFUSED = "refused"
    API_ERROR = "api_error"  # the server will never answer the request


@dataclass(frozen=True, kw_only=True)
class Judgment:
    """One verdict on one match: a row of the judge's audit."""

    judge: str  # "gpt-4", "reference"
    benchmark: str  # "vicuna", "oa", or the stem of the question file
    protocol: str  # "score10" or "three_class"
    question: str  # its id
    category: str
    lang: str
    prompt: str  # "general", "coding" or "maths"; empty where the judge reads none
    first: str  # systems, in the order shown
    second: str
    verdict: str | None  # "first", "second" or "tie"; None: the strict parser read none
    score_first: float | None  # out of ten; None for three_class and where unread
    score_second: float | None
    parse: str  # "ok", "hand_filled", "recovered:RULE", "unparsed", "refused" or "api_error"
    verdict_lenient: str | None
    score_first_lenient: float | None
    score_second_lenient: float | None
    answer_first: str  # ids: equal ones are equal answers
    answer_second: str
    chars_first: int | None
    chars_second: int | None
    run_first: str  # run ids; empty for a system that is no run of the store
    run_second: str
    reply: str  # the key of the stored reply; empty where the judge leaves none
    model: str  # as the server named it
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class ManifestSection:
    """A section of the manifest, on the disk under the names of its fields."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read a section; what an older manifest lacks is None."""
        return cls(**{field.name: values.get(field.name) for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Provenance(ManifestSection):
    """The code, the packages and the machine that made a number."""

    commit: str | None  # None outside a git checkout
    dirty: bool | None
    packages: dict[str, str | None]
    python: str
    platform: str
    device: str  # as the caller read it off the model


@dataclass(frozen=True, kw_only=True)
class BaseWeights(ManifestSection):
    """How the base's weights are held in memory."""

    modules: int  # quantized layers
    kinds: dict[str, int]  # of them, by class
    dtypes: list[str]
    blocksizes: list[int | None]
    double_quantized: int  # layers
    scales: list[str]  # types that quantization constants are kept in
    parameters: int  # quantized ones
    all_parameters: int
    bits_per_parameter: float | None  # codes and scales; None where nothing is quantized
    code_bytes: int
    scale_bytes: int
    table_bytes: int
    simulated: bool  # memory holds 16-bit weights beside the codes
    kept: list[dict[str, Any]]  # parameters that are not quantized, by role ("norm") and dtype
    quantized_share: float | None  # of the parameters in blocks; None in older manifests


@dataclass(frozen=True, kw_only=True)
class AdapterSites(ManifestSection):
    """Where LoRA's adapters are."""

    target: str
    sites: dict[str, int]  # adapted layers by role
    r: int | None  # None where every weight trains


@dataclass(frozen=True, kw_only=True)
class TrainingData(ManifestSection):
    """The rows that were trained on."""

    name: str
    fingerprint: str
    rows: int
    tasks: dict[str, int]  # rows of each
    tokens: int
    trained_share: float  # of the tokens
    truncated_share: float  # of the rows
    unended_share: float | None  # rows without an end of sequence; None in older manifests


MANIFEST_SECTIONS: dict[str, type[ManifestSection]] = {
    "base": BaseWeights,
    "provenance": Provenance,
    "lora": AdapterSites,
    "data": TrainingData,
}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ran; the sections after `provenance` are of a tuned model only."""

    run_id: str
    decided_by: dict[str, Any]  # the settings that name the run
    model: dict[str, Any]  # where the checkpoint came from
    base: BaseWeights
    provenance: Provenance
    seed: int | None = None
    lora: AdapterSites | None = None
    trainable: dict[str, Any] | None = None  # parameters that train, by kind and dtype
    data: TrainingData | None = None
    training: dict[str, Any] | None = None  # the TrainResult, with a count for its steps

    def to_json(self) -> dict[str, Any]:
        """Return the document on the disk."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read a document, also an older one."""
        values: dict[str, Any] = {field.name: document.get(field.name) for field in fields(cls)}
        for name, section in MANIFEST_SECTIONS.items():
            if values[name] is not None:
                values[name] = section.from_json(values[name])
        return cls(**values)

    def on_device(self, device: str) -> Self:
        """Return the manifest with another device; sharding moves a model after it is described."""
        return replace(self, provenance=replace(self.provenance, device=device))
