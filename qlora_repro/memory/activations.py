"""What the backward pass needs kept: the tensors that autograd saves in a transformer block.

Counted in bytes a token for the blocks of the Llama family as transformers and PEFT compute them:
RMSNorm in float32, attention in one kernel that keeps no score matrix, a gated feed-forward part,
a frozen base. Other families have the same parts under other names. h is the hidden size, a and kv
the widths of queries and of keys and values, f that of the feed-forward part, r LoRA's rank, c the
bytes of a value in the forward pass.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from qlora_repro.memory.architecture import Architecture, Linear
from qlora_repro.memory.settings import Setting

FLOAT = 4  # bytes: norms, losses and logits for the loss are float32 in any setting
READS = {  # what enters a layer of a role: layers of one group read the same tensor
    "q": "attention",
    "k": "attention",
    "v": "attention",
    "qkv": "attention",
    "gate": "feed-forward",
    "up": "feed-forward",
}


@dataclass(frozen=True, kw_only=True)
class Widths:
    """The widths inside a block."""

    hidden: int
    queries: int
    keys: int  # of keys, and of values
    inner: int
    gated: bool


def widths(block: Sequence[Linear], hidden: int) -> Widths:
    """Return the widths of a block from the shapes of its layers.

    A layer that computes q, k and v in one has three parts of the same width.
    """
    out = {linear.role: linear.n_out for linear in block}
    into = {linear.role: linear.n_in for linear in block}
    queries = out.get("q", out.get("qkv", 0) // 3)
    return Widths(
        hidden=hidden,
        queries=queries,
        keys=out.get("k", queries),
        inner=into.get("down", 0),
        gated="gate" in out,
    )


def saved(
    block: Sequence[Linear],
    sizes: Architecture,
    setting: Setting,
    *,
    adapted: Collection[str],
    first: bool,
) -> int:
    """Return the bytes a token that a block keeps, its input apart: `adapted` names LoRA's layers.

    Each norm: its input in float32, of which the first is the block's input, which `activations`
    counts; a scale. Attention (two where T5's decoder reads the encoder): q, k, v, its output, a
    log-sum-exp a head, and where rows are padded the mask. Feed-forward: silu's input, its output,
    and what that is multiplied with, where gated; otherwise the activation's input. Then what LoRA
    or full fine-tuning needs of the layers' inputs. The `first` block to learn reads values that
    want no gradient, so what comes before its first adapter keeps nothing.
    """
    w, c = widths(block, sizes.hidden), setting.compute
    asleep = _asleep(block, setting, adapted=adapted) if first else ()
    attentions = sum(linear.role == "o" for linear in block) or 1
    several = w.keys * sizes.heads > w.queries  # key heads, which a mask makes as many as queries'
    keys = w.queries if setting.padded and several else w.keys
    mask = c * setting.length if setting.padded else 0
    kernel = c * (2 * w.queries + 2 * keys) + FLOAT * sizes.heads + mask
    normed = attentions * FLOAT * w.hidden + (attentions + 1) * FLOAT
    attention = 0 if "feed-forward" in asleep else attentions * kernel + normed
    inner = c * w.inner * (3 if w.gated else 1)
    return attention + inner + _inputs(block, setting, adapted=adapted, asleep=asleep)


def _asleep(
    block: Sequence[Linear], setting: Setting, *, adapted: Collection[str]
) -> tuple[str, ...]:
    """Return the inputs that want no gradient in the first block to learn."""
    if setting.full:
        return ()
    learns = any(
        x.name in adapted and (READS.get(x.role) == "attention" or x.role == "o") for x in block
    )
    return ("attention",) if learns else ("attention", "feed-forward")


def _inputs(
    block: Sequence[Linear],
    setting: Setting,
    *,
    adapted: Collection[str],
    asleep: Collection[str],
) -> int:
    """Return the bytes a token that weight gradients need: layers' inputs, and x A of each LoRA.

    The input of `o` is attention's output, kept already. A plain layer under autocast makes a copy
    of its input for its own adapter, and so does dropout, with a mask where the input wants a
    gradient: a byte a value on a GPU, a float on a CPU, which is where float32 is computed in.
    Layers of bitsandbytes, fused ones, and any in float32, share one.
    """
    c = setting.compute
    if setting.full:
        return c * (_shared(block) + _norm_outputs(block))
    chosen = [linear for linear in block if linear.name in adapted]
    low_rank = c * setting.r * len(chosen)
    if not setting.dropout and (setting.packed or setting.fused or not setting.autocast):
        return c * _shared(chosen) + low_rank
    masked = [linear for linear in chosen if READS.get(linear.role) not in asleep]
    mask = (1 if c < FLOAT else FLOAT) if setting.dropout else 0
    copies = c * sum(x.n_in for x in chosen) + mask * sum(x.n_in for x in masked)
    return copies + low_rank


def _shared(chosen: Sequence[Linear]) -> int:
    """Return the width of the distinct inputs of some layers, without attention's output."""
    groups = {READS.get(linear.role, linear.name): linear for linear in chosen}
    return sum(linear.n_in for linear in groups.values() if linear.role != "o")


def _norm_outputs(block: Sequence[Linear]) -> int:
    """Return the width that norms with a weight that trains keep: their input, normed."""
    return sum(
        linear.n_in
        for linear in {READS.get(linear.role): linear for linear in block}.values()
        if linear.role in READS
    )


def checkpoint(sizes: Architecture, setting: Setting) -> int:
    """Return the bytes a token of a block's input as checkpointing keeps it."""
    return setting.held * sizes.hidden


def transient(block: Sequence[Linear], setting: Setting, *, hidden: int) -> int:
    """Return the bytes that a block's backward pass has in hand at its widest, saved ones apart.

    In the gated part: the gradients of the product and of both its factors, and that of the
    residual stream, twice while its two branches meet. A quantized layer is dequantized for its
    input's gradient, and the largest counts.
    """
    w, c = widths(block, hidden), setting.compute
    a_token = c * ((3 if w.gated else 2) * w.inner + 2 * w.hidden)
    whole = max((linear.params for linear in block), default=0) * c if setting.packed else 0
    return a_token * setting.tokens + whole


def _positions(sizes: Architecture, setting: Setting) -> int:
    """Return the bytes of the tables of rotary positions, which all blocks share."""
    width = widths(sizes.blocks[0], sizes.hidden).queries // sizes.heads
    return 2 * setting.compute * setting.length * width


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes that the backward pass needs, at the moments that can be a peak."""

    stored: int  # at the end of the forward pass
    recomputed: int  # what checkpointing computes anew for one block, the largest
    transient: int  # gradients in hand inside a block
    first: int  # of `stored`, what the first block still needs when it comes last

    @property
    def most(self) -> int:
        """Bytes at the first step of the backward pass."""
        return self.stored + self.recomputed + self.transient


def activations(
    sizes: Architecture, setting: Setting, adapted: Sequence[Linear], *, checkpointing: bool
) -> Activations:
    """Return what a forward pass leaves for the backward pass, with or without checkpointing.

    Blocks before the first adapted one have nothing to learn and keep nothing; its own first norm
    reads embeddings that want no gradient. With checkpointing every block keeps its input alone,
    and one block at a time is computed again (Section 2; 18 MB a sequence for LLaMA 7B).
    """
    names = {linear.name for linear in adapted}
    learns = [i for i, block in enumerate(sizes.blocks) if any(x.name in names for x in block)]
    start = 0 if setting.full else min(learns, default=len(sizes.blocks))
    live = sizes.blocks[start:]
    if not live:
        return Activations(stored=0, recomputed=0, transient=0, first=0)
    each = [
        saved(block, sizes, setting, adapted=names, first=place == 0 and not checkpointing)
        for place, block in enumerate(live)
    ]
    inside, whole = FLOAT * sizes.hidden, checkpoint(sizes, setting)
    last = inside + FLOAT  # the norm before the output layer
    if setting.full:
        last += setting.compute * 2 * sizes.hidden  # its output, and that before its weight
    tables = _positions(sizes, setting)
    moving = max(transient(block, setting, hidden=sizes.hidden) for block in live)
    if checkpointing:
        again = max(each) + (0 if setting.held == FLOAT else inside)  # the float32 input is at hand
        return Activations(
            stored=(len(sizes.blocks) * whole + last) * setting.tokens + tables,
            recomputed=again * setting.tokens,
            transient=moving,
            first=whole * setting.tokens + tables,
        )
    inputs = len(live) - (0 if setting.full else 1)
    return Activations(
        stored=(sum(each) + inputs * inside + last) * setting.tokens + tables,
        recomputed=0,
        transient=moving,
        first=each[0] * setting.tokens + tables,
    )
