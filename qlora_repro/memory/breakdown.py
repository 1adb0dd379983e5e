"""The accounting: what each part of a run takes in bytes, and the moment that takes the most.

Pure functions of an architecture and a setting. 1 GB is 1e9 bytes. Not counted: CUDA's context,
and what an allocator holds without using it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qlora_repro.memory.activations import FLOAT, Activations, activations
from qlora_repro.memory.architecture import Architecture, Linear
from qlora_repro.memory.settings import Setting

CODE_BITS = {"nf4": 4, "fp4": 4, "int8": 8}  # of bitsandbytes
DQ_BLOCKSIZE = 256  # constants that share a second-level one (Section 3)
CHUNK = 1 << 26  # logits that our loss has in float32 at one time
PAPER_FULL = 12  # bytes a parameter of 16-bit full fine-tuning: weight, gradient, two moments
LIKE_WEIGHTS = ("adamw_torch", "adamw_torch_fused")  # two moments in the type of what trains
STATE = {  # bytes a trained parameter of other optimizers, whatever type it trains in
    "paged_adamw_32bit": 8.0,
    "adamw_8bit": 2 + 8 / 256,  # two codes, and two float32 scales for each 256 of them
    "paged_adamw_8bit": 2 + 8 / 256,
    "sgd": 0.0,
}
WHOLE_STEP = ("adamw_torch",)  # takes all weights at once, with a value a weight beside them

STEPPING = "the optimizer's step"


def weight_bytes(sizes: Architecture, setting: Setting) -> int:
    """Return the bytes of weights: codes of quantized linears, everything else whole.

    Embeddings, output layer and norms stay unquantized. A simulated type holds whole weights too.
    """
    if not setting.packed or setting.full:
        return sizes.params * setting.held
    codes = sum(-(-x.params * CODE_BITS[setting.dtype] // 8) for x in sizes.linears)
    return codes + sizes.kept * setting.held


def scale_bytes(sizes: Architecture, setting: Setting) -> int:
    """Return the bytes of quantization constants, layer by layer.

    A float32 a block; with double quantization a byte a block, a float32 for each 256 of these and
    one more, their mean, for the layer: 0.127 bits a parameter in place of 0.5. LLM.int8() has a
    float32 a row.
    """
    if not setting.packed or setting.full:
        return 0
    if setting.dtype == "int8":
        return sum(4 * linear.n_out for linear in sizes.linears)
    blocks = [-(-linear.params // setting.blocksize) for linear in sizes.linears]
    if not setting.dq:
        return 4 * sum(blocks)
    return sum(n + 4 * -(-n // DQ_BLOCKSIZE) + 4 for n in blocks)


def bits(sizes: Architecture, setting: Setting) -> float | None:
    """Return bits of codes and constants a quantized parameter; None where nothing is packed."""
    if not setting.packed or setting.full:
        return None
    whole = sizes.kept * setting.held
    stored = weight_bytes(sizes, setting) - whole + scale_bytes(sizes, setting)
    return 8 * stored / sizes.quantizable


def trained_params(sizes: Architecture, setting: Setting, adapted: Sequence[Linear]) -> int:
    """Return how many weights train: all of them, or LoRA's r (in + out) a layer."""
    return sizes.params if setting.full else sum(linear.adapter(setting.r) for linear in adapted)


def optimizer_bytes(sizes: Architecture, setting: Setting, adapted: Sequence[Linear]) -> int:
    """Return the bytes of optimizer states, which are there from the first step on.

    Adafactor keeps a float32 a row and a column of each matrix.
    """
    trains = trained_params(sizes, setting, adapted)
    if setting.optim in LIKE_WEIGHTS:
        return 2 * setting.trained * trains
    if setting.optim != "adafactor":
        return round(STATE[setting.optim] * trains)
    if setting.full:
        return 4 * (sum(x.n_in + x.n_out for x in sizes.linears) + sizes.vectors)
    return 4 * sum(x.n_in + x.n_out + 2 * setting.r for x in adapted)


@dataclass(frozen=True, kw_only=True)
class Training:
    """Bytes of a training run by part; `peak` is less than their sum, as they take turns."""

    weights: int
    scales: int
    adapters: int
    gradients: int
    optimizer: int
    copies: int  # 16-bit ones of what trains in float32, for the forward pass
    activations: int  # at the first step of the backward pass, as the run is set
    checkpointed: int  # the same with gradient checkpointing
    unchecked: int  # and without
    logits: int  # and what the loss makes of them
    moments: dict[str, int]  # when -> bytes in all

    @property
    def peak(self) -> int:
        """The most at one time."""
        return max(self.moments.values())

    @property
    def when(self) -> str:
        """When that is."""
        return max(self.moments, key=lambda name: self.moments[name])

    @property
    def stepping(self) -> int:
        """What the optimizer's step has in use beside its states."""
        return self.moments[STEPPING] - self.optimizer

    @property
    def busy(self) -> int:
        """The most in forward and backward pass without the states, which can be paged out."""
        passes = (size for name, size in self.moments.items() if name != STEPPING)
        return max(passes) - self.optimizer


def training(sizes: Architecture, setting: Setting, adapted: Sequence[Linear]) -> Training:
    """Return what training takes.

    From the second step on the states are there throughout. Activations grow to the end of the
    forward pass and shrink through the backward pass while gradients grow, both in step with depth,
    so the most is at one end: at the loss, at the backward pass's first block or at its last, or at
    the optimizer's step. Gradients of earlier micro-batches are there throughout.
    """
    trains = trained_params(sizes, setting, adapted)
    count = trains * setting.trained
    adapters = 0 if setting.full else count
    weights, scales = weight_bytes(sizes, setting), scale_bytes(sizes, setting)
    state = optimizer_bytes(sizes, setting, adapted)
    ways = {way: activations(sizes, setting, adapted, checkpointing=way) for way in (True, False)}
    live = ways[setting.checkpointing]
    copies = trains * setting.compute if setting.autocast else 0
    loss = loss_bytes(sizes, setting)
    moments = _moments(
        setting,
        live,
        fixed=weights + scales + adapters + state,
        gradients=count,
        copies=copies,
        loss=loss,
    )
    moments[STEPPING] += count if setting.optim in WHOLE_STEP else 0
    return Training(
        weights=weights,
        scales=scales,
        adapters=adapters,
        gradients=count,
        optimizer=state,
        copies=copies,
        activations=live.most,
        checkpointed=ways[True].most,
        unchecked=ways[False].most,
        logits=loss.most,
        moments=moments,
    )


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Bytes from the output layer to its gradient."""

    logits: int  # as the output layer leaves them
    most: int  # at the loss's fullest moment, them included
    head: int  # a 16-bit copy of an output layer held in float32, for its backward pass


def loss_bytes(sizes: Architecture, setting: Setting) -> Loss:
    """Return what the loss takes.

    transformers' own has three float32 values a logit at its fullest, which is in its backward
    pass: log-probability, its gradient, and the logit's. So has ours where logits are in float32 on
    a CPU. Elsewhere ours has the logits and their gradient, and float32 values of a chunk of them
    twice; logits are in 16 bits unless the mixed precision of PEFT's own layers widens them.
    """
    count = setting.rows * setting.predicted * sizes.vocab
    narrow = setting.compute < FLOAT
    if setting.plain_loss or not narrow:
        most = 3 * FLOAT * count
    else:
        width = FLOAT if setting.autocast and not setting.fused else setting.compute
        most = 2 * width * count + FLOAT * 2 * min(count, CHUNK)
    copied = narrow and not setting.full and setting.held > setting.compute
    head = (sizes.head or sizes.embedding) * setting.compute if copied else 0
    return Loss(logits=setting.compute * count, most=most, head=head)


def _moments(
    setting: Setting, live: Activations, *, fixed: int, gradients: int, copies: int, loss: Loss
) -> dict[str, int]:
    """Return the bytes in use at each moment that can be the peak.

    Copies for the forward pass go with it, but for those that the backward pass reads, which are
    all of them without checkpointing. Fused layers have theirs until the step.
    """
    waiting = fixed + (gradients if setting.accumulates else 0)
    kept = 0 if setting.checkpointing and not setting.fused else copies
    cast = copies if setting.fused else 0
    return {
        "the end of the forward pass": waiting + live.stored + copies + loss.logits + loss.head,
        "the loss": waiting + live.stored + kept + loss.most + loss.head,
        "the backward pass's first block": waiting + live.most + kept,
        "the backward pass's last block": fixed
        + gradients
        + live.first
        + live.recomputed
        + live.transient
        + cast,
        STEPPING: fixed + gradients,
    }


@dataclass(frozen=True, kw_only=True)
class Inference:
    """Bytes of answering: the weights, the adapter, and a cache of keys and values."""

    weights: int
    scales: int
    adapters: int
    cache: int
    activations: int
    logits: int

    @property
    def peak(self) -> int:
        """Bytes in all."""
        parts = (self.weights, self.scales, self.adapters, self.cache, self.activations)
        return sum(parts) + self.logits


def inference(sizes: Architecture, setting: Setting, adapted: Sequence[Linear]) -> Inference:
    """Return what answering takes with as many sequences, and tokens in each, as training has.

    Keys and values of every token; the prompt's widest block; logits of one position a sequence, in
    float32 for sampling.
    """
    c = setting.compute
    cached = sum(x.n_out for x in sizes.linears if x.role in ("k", "v"))
    cached += sum(2 * x.n_out // 3 for x in sizes.linears if x.role == "qkv")
    # in hand at once: the widest layer's output twice, as a product has two factors, and the stream
    wide = max(x.n_out for x in sizes.linears)
    whole = max(x.params for x in sizes.linears) * c if setting.packed else 0
    trains = trained_params(sizes, setting, adapted)
    return Inference(
        weights=weight_bytes(sizes, setting),
        scales=scale_bytes(sizes, setting),
        adapters=0 if setting.full else trains * setting.trained,
        cache=cached * c * setting.tokens,
        activations=c * (2 * wide + 2 * sizes.hidden) * setting.tokens + whole,
        logits=(c + 4) * setting.rows * sizes.vocab,
    )
