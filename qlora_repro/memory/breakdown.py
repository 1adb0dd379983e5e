"""The breakdown: what each part of a run takes in bytes, the peak, and what pages at the peak.

Pure functions of an architecture and the settings of a run. 1 GB is 1e9 bytes. Not counted: CUDA's
context, and what an allocator holds without using it.
"""

from dataclasses import dataclass

from qlora_repro.errors import RunError
from qlora_repro.memory.activations import FLOAT32_BYTES, activation_memory
from qlora_repro.memory.settings import PlannedRun
from qlora_repro.records import InferenceMemory, TrainingMemory

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


def weight_bytes(run: PlannedRun) -> int:
    """Return the bytes of weights: codes of quantized layers, everything else in full.

    Embeddings, output layer and norms stay unquantized. A simulated type holds full weights too.
    """
    if not run.packed:
        return run.sizes.params * run.stored_bytes
    codes = sum(-(-x.params * CODE_BITS[run.dtype] // 8) for x in run.sizes.linears)
    return codes + run.sizes.unquantized * run.stored_bytes


def scale_bytes(run: PlannedRun) -> int:
    """Return the bytes of quantization constants, layer by layer.

    A float32 a block; with double quantization a byte a block, a float32 for each 256 of these and
    one more, their mean, for the layer: 0.127 bits a parameter in place of 0.5. LLM.int8() has a
    float32 a row.
    """
    if not run.packed:
        return 0
    if run.dtype == "int8":
        return sum(4 * linear.n_out for linear in run.sizes.linears)
    blocks = [-(-linear.params // run.blocksize) for linear in run.sizes.linears]
    if not run.dq:
        return 4 * sum(blocks)
    return sum(n + 4 * -(-n // DQ_BLOCKSIZE) + 4 for n in blocks)


def bits_per_parameter(run: PlannedRun) -> float | None:
    """Return bits of codes and constants a quantized parameter; None where nothing is packed."""
    if not run.packed:
        return None
    codes = weight_bytes(run) - run.sizes.unquantized * run.stored_bytes
    return 8 * (codes + scale_bytes(run)) / run.sizes.quantizable


def adapter_bytes(run: PlannedRun) -> int:
    """Return the bytes of the adapters; none where every weight trains."""
    return 0 if run.full_finetuning else run.trained * run.trained_bytes


def optimizer_bytes(run: PlannedRun) -> int:
    """Return the bytes of optimizer states, which exist from the first step on.

    Adafactor keeps a float32 a row and a column of each matrix.
    """
    if run.optim in TORCH_ADAM:
        return 2 * run.trained_bytes * run.trained
    if run.optim != "adafactor":
        return round(STATE_BYTES[run.optim] * run.trained)
    if run.full_finetuning:
        return 4 * (sum(x.n_in + x.n_out for x in run.sizes.linears) + run.sizes.vectors)
    return 4 * sum(x.n_in + x.n_out + 2 * run.r for x in run.adapted)


def training_memory(run: PlannedRun) -> TrainingMemory:
    """Return what training takes.

    From the second step on the states are there throughout. Activations grow to the end of the
    forward pass and shrink through the backward pass while gradients grow, both in step with depth,
    so the most is at one end: at the loss, at the backward pass's first block or at its last, or at
    the optimizer's step. Gradients of earlier micro-batches are there throughout. Copies for the
    forward pass end with it, except for those that the backward pass reads, which are all of them
    without checkpointing. Fused layers keep theirs until the step.
    """
    gradients = run.trained * run.trained_bytes
    copies = run.trained * run.compute_bytes if run.autocast else 0
    states, loss = optimizer_bytes(run), loss_memory(run)
    checkpointed, unchecked = (activation_memory(run, checkpointing=on) for on in (True, False))
    activations = checkpointed if run.checkpointing else unchecked
    fixed = weight_bytes(run) + scale_bytes(run) + adapter_bytes(run) + states
    waiting = fixed + (gradients if run.accumulates else 0)
    forward = waiting + activations.stored + loss.head
    backward_copies = 0 if run.checkpointing and not run.fused else copies
    last_block = activations.first_block + activations.recomputed + activations.transient
    passes = {
        "the end of the forward pass": forward + copies + loss.logits,
        "the loss": forward + backward_copies + loss.peak,
        "the backward pass's first block": waiting + activations.peak + backward_copies,
        "the backward pass's last block": fixed
        + gradients
        + last_block
        + (copies if run.fused else 0),
    }
    step = fixed + gradients * (2 if run.optim == UNFUSED_OPTIMIZER else 1)
    moments = passes | {"the optimizer's step": step}
    return TrainingMemory(
        weights=weight_bytes(run),
        scales=scale_bytes(run),
        adapter_weights=adapter_bytes(run),
        gradients=gradients,
        optimizer=states,
        copies=copies,
        activations=activations.peak,
        activations_checkpointed=checkpointed.peak,
        activations_unchecked=unchecked.peak,
        logits=loss.peak,
        peak=max(moments.values()),
        when=max(moments, key=lambda name: moments[name]),
        busy=max(passes.values()) - states,
        stepping=step - states,
    )


@dataclass(frozen=True, kw_only=True)
class LossMemory:
    """Bytes from the output layer to its gradient."""

    logits: int  # as the output layer leaves them
    peak: int  # of the loss, logits included
    head: int  # a 16-bit copy of an output layer held in float32, for its backward pass


def loss_memory(run: PlannedRun) -> LossMemory:
    """Return what the loss takes.

    transformers' own has three float32 values a logit at its peak, which is in its backward pass:
    log-probability, its gradient, and the logit's. So has ours where logits are in float32 on a
    CPU. Elsewhere ours has the logits and their gradient, and float32 values of a chunk of them
    twice; logits are in 16 bits unless the mixed precision of PEFT's own layers widens them.
    """
    logits = run.rows * run.loss_positions * run.sizes.vocab
    half_precision = run.compute_bytes < FLOAT32_BYTES
    if run.library_loss or not half_precision:
        peak = 3 * FLOAT32_BYTES * logits
    else:
        widened = run.autocast and not run.fused
        logit_bytes = FLOAT32_BYTES if widened else run.compute_bytes
        peak = 2 * logit_bytes * logits + FLOAT32_BYTES * 2 * min(logits, LOSS_CHUNK)
    is_frozen_float32 = not run.full_finetuning and run.stored_bytes > run.compute_bytes
    head = 0
    if half_precision and is_frozen_float32:
        head = (run.sizes.head or run.sizes.embedding) * run.compute_bytes
    return LossMemory(logits=run.compute_bytes * logits, peak=peak, head=head)


def inference_memory(run: PlannedRun) -> InferenceMemory:
    """Return what answering takes with as many sequences, and tokens in each, as training has.

    Keys and values of every token; the prompt's widest block; logits of one position a sequence, in
    float32 for sampling.
    """
    c, linears = run.compute_bytes, run.sizes.linears
    cached = sum(x.n_out for x in linears if x.role in ("k", "v"))
    cached += sum(2 * x.n_out // 3 for x in linears if x.role == "qkv")
    cache = cached * c * run.tokens
    # at once: the widest layer's output twice, as a product has two factors, and the stream
    widest = max(x.n_out for x in linears)
    dequantized = max(x.params for x in linears) * c if run.packed else 0
    activations = c * (2 * widest + 2 * run.sizes.hidden) * run.tokens + dequantized
    logits = (c + 4) * run.rows * run.sizes.vocab
    held = weight_bytes(run) + scale_bytes(run) + adapter_bytes(run)
    return InferenceMemory(
        cache=cache,
        inference_activations=activations,
        inference_logits=logits,
        inference_peak=held + cache + activations + logits,
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
