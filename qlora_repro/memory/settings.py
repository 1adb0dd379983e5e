"""What decides a run's memory and time: architecture, precision, adapters, optimizer and batch."""

from dataclasses import dataclass
from functools import cached_property

from qlora_repro.config.registry import FULL_PRECISION
from qlora_repro.config.schema import ModelConfig, PlanConfig, RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.lora.targets import TARGETS
from qlora_repro.memory.architecture import (
    Architecture,
    LinearLayer,
    adapted_layers,
    llama_architecture,
)

BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """What decides the memory and the time of a run: a model, its adapted layers, the settings."""

    sizes: Architecture
    adapted: tuple[LinearLayer, ...]  # the layers that LoRA goes to
    dtype: str
    backend: str  # bnb holds codes; simulated and none hold full values
    blocksize: int
    dq: bool
    compute_bytes: int  # of a value in the forward pass
    base_bytes: int  # of a base weight that is not quantized, and of the residual stream
    library_loss: bool = False  # transformers' own loss, over all positions at once
    fused: bool  # each LoRA layer is one function of autograd
    r: int
    full_finetuning: bool  # every weight trains, in float32
    adapter_bytes: int  # of an adapter's weight
    optim: str
    batch_size: int  # sequences an optimizer step
    rows: int  # sequences in a forward pass
    ragged: bool = True  # rows differ in length
    length: int  # tokens of each
    loss_positions: int  # of each, that the output layer and the loss see
    checkpointing: bool
    dropout: bool

    @property
    def tokens(self) -> int:
        """Positions in a forward pass."""
        return self.rows * self.length

    @property
    def padded(self) -> bool:
        """Whether attention gets a mask."""
        return self.ragged and self.rows > 1

    @property
    def accumulates(self) -> bool:
        """Whether gradients wait while further micro-batches are computed."""
        return self.batch_size > self.rows

    @property
    def packed(self) -> bool:
        """Whether linear weights are held as bitsandbytes' codes."""
        return self.backend == "bnb" and self.dtype not in FULL_PRECISION

    @property
    def stored_bytes(self) -> int:
        """Bytes of a weight that is not quantized; full fine-tuning holds all in float32."""
        return 4 if self.full_finetuning else self.base_bytes

    @property
    def trained_bytes(self) -> int:
        """Bytes of a weight that trains, and of its gradient."""
        return 4 if self.full_finetuning else self.adapter_bytes

    @property
    def trained(self) -> int:
        """How many weights train: all of them, or LoRA's r (in + out) a layer."""
        if self.full_finetuning:
            return self.sizes.params
        return sum(linear.adapter_params(self.r) for linear in self.adapted)

    @property
    def autocast(self) -> bool:
        """Whether the forward pass computes in 16 bits with weights that train in float32."""
        return self.compute_bytes < self.trained_bytes

    @cached_property
    def adapted_names(self) -> frozenset[str]:
        """Names of the layers that LoRA goes to."""
        return frozenset(linear.name for linear in self.adapted)


def plan_run(cfg: RunConfig, *, length: int | None = None) -> PlannedRun:
    """Return what of a run decides its memory and its time.

    A micro-batch or checkpointing left at `auto` is taken for what needs least: one row, with
    checkpointing.

    Args:
        cfg: The run.
        length: Tokens of the longest row; None: the longest that the run allows.

    Raises:
        ConfigError: The plan section or the placement cannot be, or a quantized base is to train.
        ModelError: The checkpoint's configuration cannot be read.
    """
    check_plan(cfg)
    data, train = cfg.data, cfg.train
    sizes, adapted = read_architecture(cfg.model, cfg.lora.target, layers=cfg.lora.layers)
    tokens = length or cfg.plan.length or data.max_source_len + data.max_target_len
    all_positions = data.train_on_source or cfg.model.kind != "causal"
    compute_bytes = BYTES_PER_VALUE[cfg.dtype.compute_dtype]
    return PlannedRun(
        sizes=sizes,
        adapted=adapted,
        dtype=cfg.dtype.name,
        backend=cfg.dtype.backend,
        blocksize=cfg.dtype.blocksize,
        dq=cfg.dq,
        compute_bytes=compute_bytes,
        base_bytes=compute_bytes,
        fused=cfg.lora.fused and not cfg.full_finetuning and cfg.dtype.name != "int8",
        r=cfg.lora.r,
        full_finetuning=cfg.full_finetuning and train.max_steps > 0,
        adapter_bytes=BYTES_PER_VALUE[cfg.lora.dtype],
        optim=train.optim,
        batch_size=train.batch_size,
        rows=1 if train.micro_batch_size == "auto" else train.micro_batch_rows,
        length=tokens,
        loss_positions=tokens if all_positions else min(tokens, data.max_target_len),
        checkpointing=train.gradient_checkpointing == "auto" or train.uses_checkpointing,
        dropout=cfg.lora.dropout > 0,
    )


def usable_bytes(card: float, plan: PlanConfig) -> int:
    """Return what tensors can have of a card: a card sold as 24 GB has 24 GiB."""
    return round(card * 2**30 - plan.reserve * 1e9)


def check_plan(cfg: RunConfig) -> None:
    """Refuse what cannot be planned; raises ConfigError."""
    plan = cfg.plan
    for key, count in (("length", plan.length), ("gpus", min(plan.gpus, default=1))):
        if count is not None and count < 1:
            raise ConfigError(f"plan.{key} is {count}, and must be at least 1")
    for key in ("memory", "bus", "tflops", "utilization"):
        size = getattr(plan, key)
        if size is not None and not 0 < size < float("inf"):
            raise ConfigError(f"plan.{key} is {size}, and must be more than 0")
    if not 0 <= plan.reserve < float("inf"):
        raise ConfigError(f"plan.reserve is {plan.reserve}, and must be at least 0")


def read_architecture(
    model: ModelConfig, target: str, *, layers: list[int] | None
) -> tuple[Architecture, tuple[LinearLayer, ...]]:
    """Return a model's architecture and the layers that LoRA goes to.

    It is read from `model.architecture` where that is written, without importing torch; otherwise
    from the checkpoint's configuration.

    Raises:
        ConfigError: The placement cannot be.
        ModelError: The checkpoint's configuration cannot be read.
    """
    if model.architecture is not None and model.kind == "causal" and target in TARGETS:
        sizes = llama_architecture(model.architecture)
        return sizes, adapted_layers(sizes.linears, target, layers=layers)
    from qlora_repro.memory.checkpoint_architecture import (
        read_checkpoint_architecture,  # torch and transformers
    )

    return read_checkpoint_architecture(model, target, layers=layers)
