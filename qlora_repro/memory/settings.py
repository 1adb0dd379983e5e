"""What decides memory besides the architecture: precision, adapters, optimizer and batch."""

from dataclasses import dataclass

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
class Settings:
    """The settings of one run that decide its memory."""

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
    rows: int  # sequences in a forward pass
    length: int  # tokens of each
    loss_positions: int  # of each, that the output layer and the loss see
    checkpointing: bool
    accumulates: bool  # gradients wait while further micro-batches are computed
    dropout: bool
    padded: bool  # rows differ in length: attention gets a mask

    @property
    def tokens(self) -> int:
        """Positions in a forward pass."""
        return self.rows * self.length

    @property
    def packed(self) -> bool:
        """Whether linear weights are held as bitsandbytes' codes."""
        return self.backend == "bnb" and self.dtype not in ("fp32", "bf16")

    @property
    def stored_bytes(self) -> int:
        """Bytes of a weight that is not quantized; full fine-tuning holds all in float32."""
        return 4 if self.full_finetuning else self.base_bytes

    @property
    def trained_bytes(self) -> int:
        """Bytes of a weight that trains, and of its gradient."""
        return 4 if self.full_finetuning else self.adapter_bytes

    @property
    def autocast(self) -> bool:
        """Whether the forward pass computes in 16 bits with weights that train in float32."""
        return self.compute_bytes < self.trained_bytes


def read_settings(cfg: RunConfig, *, length: int | None = None) -> Settings:
    """Return what of a run's configuration decides its memory.

    A micro-batch or checkpointing left at `auto` is taken for what needs least: one row, with
    checkpointing.

    Args:
        cfg: The run.
        length: Tokens of the longest row; None: the longest that the run allows.

    Raises:
        ConfigError: The plan section cannot be, or a quantized base is to train.
    """
    check_plan(cfg)
    data, train = cfg.data, cfg.train
    tokens = length or cfg.plan.length or data.max_source_len + data.max_target_len
    rows = 1 if train.micro_batch_size == "auto" else train.micro_batch_rows
    all_positions = data.train_on_source or cfg.model.kind != "causal"
    compute_bytes = BYTES_PER_VALUE[cfg.dtype.compute_dtype]
    return Settings(
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
        rows=rows,
        length=tokens,
        loss_positions=tokens if all_positions else min(tokens, data.max_target_len),
        checkpointing=train.gradient_checkpointing == "auto" or train.uses_checkpointing,
        accumulates=train.batch_size > rows,
        dropout=cfg.lora.dropout > 0,
        padded=rows > 1,
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
    if cfg.full_finetuning and cfg.quantized and cfg.train.max_steps:
        raise ConfigError(
            f"lora=none trains every weight, and a dtype={cfg.dtype.name} base is frozen; "
            "use dtype=bf16 with lora=none, or lora=all"
        )


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
