"""Activations: the tensors that autograd saves for the backward pass, block by block.

Counted in bytes a token for blocks of the Llama family as transformers and PEFT compute them:
RMSNorm in float32, attention in one kernel that keeps no score matrix, a gated feed-forward part, a
frozen base. Other families have the same parts under other names.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from qlora_repro.memory.architecture import LinearLayer
from qlora_repro.memory.settings import PlannedRun

FLOAT32_BYTES = 4  # of norms, losses and the logits that a loss reads, in any setting
# What enters a layer, by its role: layers of one group read the same tensor.
INPUT_GROUPS = dict.fromkeys(("q", "k", "v", "qkv"), "attention") | dict.fromkeys(
    ("gate", "up"), "feed-forward"
)


@dataclass(frozen=True, kw_only=True)
class BlockWidths:
    """The widths inside a block."""

    queries: int
    keys: int  # of keys, and of values
    inner: int  # of the feed-forward part
    gated: bool


def block_widths(block: Sequence[LinearLayer]) -> BlockWidths:
    """Return the widths of a block from the shapes of its layers.

    A layer that computes q, k and v in one has three parts of the same width.
    """
    n_out = {linear.role: linear.n_out for linear in block}
    inner = {linear.role: linear.n_in for linear in block}.get("down", 0)
    queries = n_out.get("q", n_out.get("qkv", 0) // 3)
    keys = n_out.get("k", queries)
    return BlockWidths(queries=queries, keys=keys, inner=inner, gated="gate" in n_out)


def saved_bytes(block: Sequence[LinearLayer], run: PlannedRun, *, first: bool) -> int:
    """Return the bytes a token that autograd saves in a block, the block's input apart.

    Each norm saves its input in float32 and a scale; the first norm's input is the block's, which
    `activation_memory` counts. Attention (twice where T5's decoder reads the encoder) saves q, k,
    v, its output, a log-sum-exp a head, and the mask where rows are padded. The feed-forward part
    saves the input and the output of its activation and what that is multiplied with, where it is
    gated; otherwise the activation's input. To this come the inputs of layers whose weights, or
    adapters, train.

    Args:
        block: The block's linear layers.
        run: The run that trains them.
        first: Whether it is the first block to learn. Its input needs no gradient, so what comes
            before its first adapter saves nothing.
    """
    w, c, heads = block_widths(block), run.compute_bytes, run.sizes.heads
    frozen = _inputs_without_gradient(block, run) if first else ()
    attentions = sum(linear.role == "o" for linear in block) or 1
    grouped = w.keys * heads > w.queries  # a mask makes key heads as many as query heads
    keys = w.queries if run.padded and grouped else w.keys
    mask = c * run.length if run.padded else 0
    kernel = c * (2 * w.queries + 2 * keys) + FLOAT32_BYTES * heads + mask
    norms = attentions * FLOAT32_BYTES * run.sizes.hidden + (attentions + 1) * FLOAT32_BYTES
    attention = 0 if "feed-forward" in frozen else attentions * kernel + norms
    feed_forward = c * w.inner * (3 if w.gated else 1)
    return attention + feed_forward + _layer_input_bytes(block, run, frozen=frozen)


def _inputs_without_gradient(block: Sequence[LinearLayer], run: PlannedRun) -> tuple[str, ...]:
    """Return the input groups that need no gradient in the first block to learn."""
    if run.full_finetuning:
        return ()
    in_attention = {x.name for x in block if x.role in ("q", "k", "v", "qkv", "o")}
    return ("attention",) if in_attention & run.adapted_names else ("attention", "feed-forward")


def _layer_input_bytes(
    block: Sequence[LinearLayer], run: PlannedRun, *, frozen: Collection[str]
) -> int:
    """Return the bytes a token that weight gradients need: layers' inputs, and x A of each LoRA.

    A plain layer under autocast copies its input for its own adapter, and so does dropout, with a
    mask where the input needs a gradient: a byte a value on a GPU, a float on a CPU, which is where
    float32 is computed in. Layers of bitsandbytes, fused ones, and any in float32, share one input.
    """
    c = run.compute_bytes
    if run.full_finetuning:
        inputs = _input_widths(block)
        norm_outputs = sum(width for name, width in inputs.items() if name in INPUT_GROUPS.values())
        return c * (sum(inputs.values()) + norm_outputs)
    chosen = [linear for linear in block if linear.name in run.adapted_names]
    low_rank = c * run.r * len(chosen)
    if not run.dropout and (run.packed or run.fused or not run.autocast):
        return c * sum(_input_widths(chosen).values()) + low_rank
    masked = [linear for linear in chosen if INPUT_GROUPS.get(linear.role) not in frozen]
    mask = (1 if c < FLOAT32_BYTES else FLOAT32_BYTES) if run.dropout else 0
    return c * sum(x.n_in for x in chosen) + mask * sum(x.n_in for x in masked) + low_rank


def _input_widths(layers: Sequence[LinearLayer]) -> dict[str, int]:
    """Return widths of distinct inputs; that of `o` is attention's output, saved anyway."""
    return {INPUT_GROUPS.get(x.role, x.name): x.n_in for x in layers if x.role != "o"}


def transient_bytes(block: Sequence[LinearLayer], run: PlannedRun) -> int:
    """Return the bytes of a block's backward pass at its widest, saved ones apart.

    In the gated part: the gradients of the product and of both its factors, and that of the
    residual stream, twice while its two branches meet. A quantized layer is dequantized for its
    input's gradient, and the largest counts.
    """
    w, c = block_widths(block), run.compute_bytes
    per_token = c * ((3 if w.gated else 2) * w.inner + 2 * run.sizes.hidden)
    dequantized = max((x.params for x in block), default=0) * c if run.packed else 0
    return per_token * run.tokens + dequantized


@dataclass(frozen=True, kw_only=True)
class ActivationMemory:
    """Bytes that the backward pass needs, at the moments that can be a peak."""

    stored: int  # at the end of the forward pass
    recomputed: int = 0  # what checkpointing computes again for one block, the largest
    transient: int  # gradients inside a block
    first_block: int  # of `stored`, what the first block still needs when it comes last

    @property
    def peak(self) -> int:
        """Bytes at the first step of the backward pass."""
        return self.stored + self.recomputed + self.transient


def activation_memory(run: PlannedRun, *, checkpointing: bool) -> ActivationMemory:
    """Return what a forward pass leaves for the backward pass, with or without checkpointing.

    Blocks before the first adapted one have nothing to learn and save nothing; that block's first
    norm reads embeddings that need no gradient. With checkpointing every block saves its input
    alone, and one block at a time is computed again (Section 2; 18 MB a sequence for LLaMA 7B).
    """
    sizes, names = run.sizes, run.adapted_names
    learning = [i for i, block in enumerate(sizes.blocks) if any(x.name in names for x in block)]
    start = 0 if run.full_finetuning else min(learning, default=len(sizes.blocks))
    blocks = sizes.blocks[start:]
    if not blocks:
        return ActivationMemory(stored=0, transient=0, first_block=0)
    saved = [
        saved_bytes(block, run, first=not number and not checkpointing)
        for number, block in enumerate(blocks)
    ]
    norm_input = FLOAT32_BYTES * sizes.hidden
    output = norm_input + FLOAT32_BYTES  # the norm before the output layer
    if run.full_finetuning:
        output += run.compute_bytes * 2 * sizes.hidden  # before and after its weight
    head_width = block_widths(sizes.blocks[0]).queries // sizes.heads
    rotary = 2 * run.compute_bytes * run.length * head_width  # all blocks share it
    transient = max(transient_bytes(block, run) for block in blocks)
    if checkpointing:
        checkpoint = run.stored_bytes * sizes.hidden  # a block's input, bytes a token
        is_float32 = run.stored_bytes == FLOAT32_BYTES  # then the norm reads the checkpoint
        return ActivationMemory(
            stored=(len(sizes.blocks) * checkpoint + output) * run.tokens + rotary,
            recomputed=(max(saved) + (0 if is_float32 else norm_input)) * run.tokens,
            transient=transient,
            first_block=checkpoint * run.tokens + rotary,
        )
    inputs = len(blocks) - (0 if run.full_finetuning else 1)
    return ActivationMemory(
        stored=(sum(saved) + inputs * norm_input + output) * run.tokens + rotary,
        transient=transient,
        first_block=saved[0] * run.tokens + rotary,
    )
