"""The breakdown: what each part of a run takes in bytes, the peak, and what pages at the peak.

Pure functions of an architecture and the settings of a run. 1 GB is 1e9 bytes. Not counted: CUDA's
context, and what an allocator holds without using it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qlora_repro.errors import RunError
from qlora_repro.memory.activations import FLOAT32_BYTES, ActivationMemory, activation_memory
from qlora_repro.memory.architecture import Architecture, LinearLayer
from qlora_repro.memory.settings import Settings

CODE_BITS = {"nf4": 4, "fp4": 4, "int8": 8}  # of bitsandbytes
DQ_BLOCKSIZE = 256  # constants that share a second-level one (Section 3)
LOSS_CHUNK = 1 << 26  # logits that our loss has in float32 at one time, as train.loss has it
FULL_FINETUNING_BYTES = 12  # a parameter, in 16 bits: weight, gradient, two moments (the paper)
TORCH_ADAM = ("adamw_torch", "adamw_torch_fused")  # two moments in the type of what trains
STATE_BYTES = {  # a trained parameter, of other optimizers, whatever type it trains in
    "paged_adamw_32bit": 8.0,
    "adamw_8bit": 2 + 8 / 256,  # two codes, and two float32 scales for each 256 of them
    "paged_adamw_8bit": 2 + 8 / 256,
    "sgd": 0.0,
}
UNFUSED_OPTIMIZER = "adamw_torch"  # steps all weights at once, with a value a weight beside them
OPTIMIZER_STEP = "the optimizer's step"


def weight_bytes(sizes: Architecture, settings: Settings) -> int:
    """Return the bytes of weights: codes of quantized layers, everything else in full.

    Embeddings, output layer and norms stay unquantized. A simulated type holds full weights too.
    """
    if not settings.packed or settings.full_finetuning:
        return sizes.params * settings.stored_bytes
    codes = sum(-(-x.params * CODE_BITS[settings.dtype] // 8) for x in sizes.linears)
    return codes + sizes.unquantized * settings.stored_bytes


def scale_bytes(sizes: Architecture, settings: Settings) -> int:
    """Return the bytes of quantization constants, layer by layer.

    A float32 a block; with double quantization a byte a block, a float32 for each 256 of these and
    one more, their mean, for the layer: 0.127 bits a parameter in place of 0.5. LLM.int8() has a
    float32 a row.
    """
    if not settings.packed or settings.full_finetuning:
        return 0
    if settings.dtype == "int8":
        return sum(4 * linear.n_out for linear in sizes.linears)
    blocks = [-(-linear.params // settings.blocksize) for linear in sizes.linears]
    if not settings.dq:
        return 4 * sum(blocks)
    return sum(n + 4 * -(-n // DQ_BLOCKSIZE) + 4 for n in blocks)


def bits_per_parameter(sizes: Architecture, settings: Settings) -> float | None:
    """Return bits of codes and constants a quantized parameter; None where nothing is packed."""
    if not settings.packed or settings.full_finetuning:
        return None
    codes = weight_bytes(sizes, settings) - sizes.unquantized * settings.stored_bytes
    return 8 * (codes + scale_bytes(sizes, settings)) / sizes.quantizable


def trained_parameters(
    sizes: Architecture, settings: Settings, adapted: Sequence[LinearLayer]
) -> int:
    """Return how many weights train: all of them, or LoRA's r (in + out) a layer."""
    if settings.full_finetuning:
        return sizes.params
    return sum(linear.adapter_params(settings.r) for linear in adapted)


def optimizer_bytes(sizes: Architecture, settings: Settings, adapted: Sequence[LinearLayer]) -> int:
    """Return the bytes of optimizer states, which exist from the first step on.

    Adafactor keeps a float32 a row and a column of each matrix.
    """
    trained = trained_parameters(sizes, settings, adapted)
    if settings.optim in TORCH_ADAM:
        return 2 * settings.trained_bytes * trained
    if settings.optim != "adafactor":
        return round(STATE_BYTES[settings.optim] * trained)
    if settings.full_finetuning:
        return 4 * (sum(x.n_in + x.n_out for x in sizes.linears) + sizes.vectors)
    return 4 * sum(x.n_in + x.n_out + 2 * settings.r for x in adapted)


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
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
        """What the optimizer's step uses besides its states."""
        return self.moments[OPTIMIZER_STEP] - self.optimizer

    @property
    def busy(self) -> int:
        """The most in forward and backward pass without the states, which can be paged out."""
        passes = (size for name, size in self.moments.items() if name != OPTIMIZER_STEP)
        return max(passes) - self.optimizer


def training_memory(
    sizes: Architecture, settings: Settings, adapted: Sequence[LinearLayer]
) -> TrainingMemory:
    """Return what training takes.

    From the second step on the states are there throughout. Activations grow to the end of the
    forward pass and shrink through the backward pass while gradients grow, both in step with depth,
    so the most is at one end: at the loss, at the backward pass's first block or at its last, or at
    the optimizer's step. Gradients of earlier micro-batches are there throughout.
    """
    trained = trained_parameters(sizes, settings, adapted)
    gradients = trained * settings.trained_bytes
    adapters = 0 if settings.full_finetuning else gradients
    weights, scales = weight_bytes(sizes, settings), scale_bytes(sizes, settings)
    states = optimizer_bytes(sizes, settings, adapted)
    by_checkpointing = {
        enabled: activation_memory(sizes, settings, adapted, checkpointing=enabled)
        for enabled in (True, False)
    }
    activations = by_checkpointing[settings.checkpointing]
    copies = trained * settings.compute_bytes if settings.autocast else 0
    loss = loss_memory(sizes, settings)
    moments = _memory_at_moments(
        settings,
        activations,
        loss,
        fixed=weights + scales + adapters + states,
        gradients=gradients,
        copies=copies,
    )
    return TrainingMemory(
        weights=weights,
        scales=scales,
        adapters=adapters,
        gradients=gradients,
        optimizer=states,
        copies=copies,
        activations=activations.peak,
        checkpointed=by_checkpointing[True].peak,
        unchecked=by_checkpointing[False].peak,
        logits=loss.peak,
        moments=moments,
    )


@dataclass(frozen=True, kw_only=True)
class LossMemory:
    """Bytes from the output layer to its gradient."""

    logits: int  # as the output layer leaves them
    peak: int  # of the loss, logits included
    head: int  # a 16-bit copy of an output layer held in float32, for its backward pass


def loss_memory(sizes: Architecture, settings: Settings) -> LossMemory:
    """Return what the loss takes.

    transformers' own has three float32 values a logit at its peak, which is in its backward pass:
    log-probability, its gradient, and the logit's. So has ours where logits are in float32 on a
    CPU. Elsewhere ours has the logits and their gradient, and float32 values of a chunk of them
    twice; logits are in 16 bits unless the mixed precision of PEFT's own layers widens them.
    """
    logits = settings.rows * settings.loss_positions * sizes.vocab
    half_precision = settings.compute_bytes < FLOAT32_BYTES
    if settings.library_loss or not half_precision:
        peak = 3 * FLOAT32_BYTES * logits
    else:
        widened = settings.autocast and not settings.fused
        logit_bytes = FLOAT32_BYTES if widened else settings.compute_bytes
        peak = 2 * logit_bytes * logits + FLOAT32_BYTES * 2 * min(logits, LOSS_CHUNK)
    is_frozen_float32 = (
        not settings.full_finetuning and settings.stored_bytes > settings.compute_bytes
    )
    head = 0
    if half_precision and is_frozen_float32:
        head = (sizes.head or sizes.embedding) * settings.compute_bytes
    return LossMemory(logits=settings.compute_bytes * logits, peak=peak, head=head)


def _memory_at_moments(
    settings: Settings,
    activations: ActivationMemory,
    loss: LossMemory,
    *,
    fixed: int,
    gradients: int,
    copies: int,
) -> dict[str, int]:
    """Return the bytes in use at each moment that can be the peak.

    Copies for the forward pass end with it, except for those that the backward pass reads, which
    are all of them without checkpointing. Fused layers keep theirs until the step.
    """
    waiting = fixed + (gradients if settings.accumulates else 0)
    kept_copies = 0 if settings.checkpointing and not settings.fused else copies
    forward = waiting + activations.stored + loss.head
    last_block = activations.first_block + activations.recomputed + activations.transient
    step = gradients if settings.optim == UNFUSED_OPTIMIZER else 0
    return {
        "the end of the forward pass": forward + copies + loss.logits,
        "the loss": forward + kept_copies + loss.peak,
        "the backward pass's first block": waiting + activations.peak + kept_copies,
        "the backward pass's last block": fixed
        + gradients
        + last_block
        + (copies if settings.fused else 0),
        OPTIMIZER_STEP: fixed + gradients + step,
    }


@dataclass(frozen=True, kw_only=True)
class InferenceMemory:
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
        return sum(vars(self).values())


def inference_memory(
    sizes: Architecture, settings: Settings, adapted: Sequence[LinearLayer]
) -> InferenceMemory:
    """Return what answering takes with as many sequences, and tokens in each, as training has.

    Keys and values of every token; the prompt's widest block; logits of one position a sequence, in
    float32 for sampling.
    """
    c = settings.compute_bytes
    cached = sum(x.n_out for x in sizes.linears if x.role in ("k", "v"))
    cached += sum(2 * x.n_out // 3 for x in sizes.linears if x.role == "qkv")
    # at once: the widest layer's output twice, as a product has two factors, and the stream
    widest = max(x.n_out for x in sizes.linears)
    dequantized = max(x.params for x in sizes.linears) * c if settings.packed else 0
    trained = trained_parameters(sizes, settings, adapted)
    return InferenceMemory(
        weights=weight_bytes(sizes, settings),
        scales=scale_bytes(sizes, settings),
        adapters=0 if settings.full_finetuning else trained * settings.trained_bytes,
        cache=cached * c * settings.tokens,
        activations=c * (2 * widest + 2 * sizes.hidden) * settings.tokens + dequantized,
        logits=(c + 4) * settings.rows * sizes.vocab,
    )


def bytes_paged_per_step(memory: int, *, states: int, busy: int, stepping: int) -> int:
    """Return the bytes of optimizer states that each step moves out of a device, and back in.

    Unified memory lets the states of a paged optimizer leave a full GPU and brings them back when
    they are read (Section 3). Activations push out what of the states does not fit beside them. If
    the step itself has room for all states, that much comes back. Otherwise the step reads the
    states once from end to end, each part pushing out the one least recently used, which is the
    part that it needs next: all of them move.

    >>> bytes_paged_per_step(10, states=4, busy=6, stepping=3)
    0
    >>> bytes_paged_per_step(10, states=4, busy=8, stepping=3)
    2
    >>> bytes_paged_per_step(10, states=4, busy=8, stepping=7)
    4

    Args:
        memory: Bytes of the device.
        states: Bytes of the optimizer's states.
        busy: The peak of forward and backward pass, without the states.
        stepping: What the optimizer's step uses, without the states.

    Raises:
        RunError: The run does not fit without any states.
    """
    least = max(busy, stepping)
    if least > memory:
        raise RunError(
            f"without any optimizer state the run takes {least / 1e9:.2f} GB, and the device has "
            f"{memory / 1e9:.2f} GB; paging cannot help"
        )
    return states if stepping + states > memory else max(0, busy + states - memory)
