"""The sizes of a model: its linear layers by block and role, its embeddings, its norms."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from qlora_repro.config.schema import ArchitectureConfig
from qlora_repro.errors import ConfigError
from qlora_repro.lora.targets import TARGETS


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """One linear layer of the base model, without its bias."""

    name: str  # "model.layers.0.self_attn.q_proj"
    layer: int | None  # the block it is in; None outside of the blocks
    role: str  # "q", "down", …, as in lora.targets, or "other"
    n_in: int
    n_out: int

    @property
    def params(self) -> int:
        """Weights."""
        return self.n_in * self.n_out

    def adapter_params(self, r: int) -> int:
        """Weights of its LoRA: A (r, in) and B (out, r)."""
        return r * (self.n_in + self.n_out)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of a model that decide its memory."""

    linears: tuple[LinearLayer, ...]
    embedding: int  # parameters of input embeddings
    head: int  # of an output embedding of its own; 0 where it is tied to the input's
    vectors: int  # of norms, biases and whatever else is in no linear layer
    hidden: int
    heads: int
    vocab: int  # rows of the output; labels of a classifier

    @property
    def quantizable(self) -> int:
        """Parameters in linear layers: what QLoRA stores in 4 bits."""
        return sum(linear.params for linear in self.linears)

    @property
    def unquantized(self) -> int:
        """Parameters that stay unquantized."""
        return self.embedding + self.head + self.vectors

    @property
    def params(self) -> int:
        """All parameters."""
        return self.quantizable + self.unquantized

    @cached_property
    def blocks(self) -> tuple[tuple[LinearLayer, ...], ...]:
        """The linear layers of each transformer block, in the model's order."""
        blocks: dict[tuple[str, int], list[LinearLayer]] = {}
        for linear in self.linears:
            if linear.layer is not None:
                stack = linear.name.partition(".")[0]  # T5 numbers its two stacks alike
                blocks.setdefault((stack, linear.layer), []).append(linear)
        return tuple(map(tuple, blocks.values()))


def llama_architecture(sizes: ArchitectureConfig) -> Architecture:
    """Return the layers of a Llama model: q, k, v, o, and a gated feed-forward part, no biases.

    Raises ConfigError for heads that do not divide the hidden size.
    """
    h, inner = sizes.hidden_size, sizes.intermediate_size
    if h % sizes.num_attention_heads:
        raise ConfigError(
            f"model.architecture.hidden_size={h} does not divide into "
            f"num_attention_heads={sizes.num_attention_heads}; it must be a multiple of them"
        )
    kv = h // sizes.num_attention_heads * sizes.num_key_value_heads
    shapes = {
        "self_attn.q_proj": ("q", h, h),
        "self_attn.k_proj": ("k", h, kv),
        "self_attn.v_proj": ("v", h, kv),
        "self_attn.o_proj": ("o", h, h),
        "mlp.gate_proj": ("gate", h, inner),
        "mlp.up_proj": ("up", h, inner),
        "mlp.down_proj": ("down", inner, h),
    }
    linears = tuple(
        LinearLayer(name=f"model.layers.{n}.{name}", layer=n, role=role, n_in=n_in, n_out=n_out)
        for n in range(sizes.num_hidden_layers)
        for name, (role, n_in, n_out) in shapes.items()
    )
    return Architecture(
        linears=linears,
        embedding=sizes.vocab_size * h,
        head=0 if sizes.tie_word_embeddings else sizes.vocab_size * h,
        vectors=(2 * sizes.num_hidden_layers + 1) * h,  # two norms a block, one at the end
        hidden=h,
        heads=sizes.num_attention_heads,
        vocab=sizes.vocab_size,
    )


def adapted_layers(
    linears: Sequence[LinearLayer], target: str, *, layers: list[int] | None
) -> tuple[LinearLayer, ...]:
    """Return the layers of a Llama model that LoRA goes to; none for full fine-tuning.

    Raises:
        ConfigError: The target is no key of TARGETS (a regular expression needs the model itself),
            or a block does not exist.
    """
    if target not in TARGETS:
        raise ConfigError(f"lora.target={target!r} is not one of {', '.join(TARGETS)}")
    known = {linear.layer for linear in linears}
    unknown = sorted(set(layers or ()) - known)
    if unknown:
        raise ConfigError(
            f"lora.layers has {unknown}, and this model's layers are numbered 0 to {len(known) - 1}"
        )
    return tuple(
        linear
        for linear in linears
        if linear.role in TARGETS[target] and (layers is None or linear.layer in layers)
    )
