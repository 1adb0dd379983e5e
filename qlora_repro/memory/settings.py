"""What decides memory beside the architecture: precision, adapters, optimizer, batch."""

from dataclasses import dataclass

from qlora_repro.config.schema import ModelConfig, PlanConfig, RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.lora.targets import TARGETS
from qlora_repro.memory.architecture import Architecture, Linear, adapted, llama

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run's settings as memory sees them."""

    dtype: str
    backend: str  # bnb holds codes; simulated and none hold whole values
    blocksize: int
    dq: bool
    compute: int  # bytes of a value in the forward pass
    kept: int  # bytes of a weight that is not quantized, and of the residual stream
    plain_loss: bool  # transformers' own loss, over all positions at once
    fused: bool  # LoRA layers are one function of autograd each
    r: int
    full: bool  # every weight trains, in float32
    adapters: int  # bytes of an adapter's weight
    optim: str
    rows: int  # sequences in a forward pass
    length: int  # tokens of each
    predicted: int  # positions of each that the output layer and the loss see
    checkpointing: bool
    accumulates: bool  # gradients wait while further micro-batches are computed
    dropout: bool
    padded: bool  # rows of different lengths: attention gets a mask

    @property
    def tokens(self) -> int:
        """Positions in a forward pass."""
        return self.rows * self.length

    @property
    def packed(self) -> bool:
        """Whether linear weights are held as bitsandbytes' codes."""
        return self.backend == "bnb" and self.dtype not in ("fp32", "bf16")

    @property
    def held(self) -> int:
        """Bytes of a weight that is not quantized; full fine-tuning holds all in float32."""
        return 4 if self.full else self.kept

    @property
    def trained(self) -> int:
        """Bytes of a weight that trains, and of its gradient."""
        return 4 if self.full else self.adapters

    @property
    def autocast(self) -> bool:
        """Whether the forward pass computes in 16 bits with weights that train in float32."""
        return self.compute < self.trained


def setting(cfg: RunConfig, *, length: int | None = None) -> Setting:
    """Return a run's settings; `length` stands in for the longest rows the run allows.

    Where the run leaves its micro-batch or checkpointing open, they are what takes least: one row,
    with checkpointing. Raises ConfigError for a plan section that cannot be, and for a quantized
    base that is to train.
    """
    check(cfg)
    data, train = cfg.data, cfg.train
    tokens = length or cfg.plan.length or data.max_source_len + data.max_target_len
    rows = 1 if train.micro_batch_size == "auto" else train.rows
    checkpointing = train.gradient_checkpointing == "auto" or train.checkpoints
    whole = data.train_on_source or cfg.model.kind != "causal"
    compute = BYTES[cfg.dtype.compute_dtype]
    return Setting(
        dtype=cfg.dtype.name,
        backend=cfg.dtype.backend,
        blocksize=cfg.dtype.blocksize,
        dq=cfg.dq,
        compute=compute,
        kept=compute,
        plain_loss=False,
        fused=cfg.lora.fused and not cfg.full_finetuning and cfg.dtype.name != "int8",
        r=cfg.lora.r,
        full=cfg.full_finetuning and train.max_steps > 0,
        adapters=BYTES[cfg.lora.dtype],
        optim=train.optim,
        rows=rows,
        length=tokens,
        predicted=tokens if whole else min(tokens, data.max_target_len),
        checkpointing=checkpointing,
        accumulates=train.batch_size > rows,
        dropout=cfg.lora.dropout > 0,
        padded=rows > 1,
    )


def card_bytes(card: float, plan: PlanConfig) -> int:
    """Return what tensors can have of a card: a card sold as 24 GB has 24 GiB."""
    return round(card * 2**30 - plan.reserve * 1e9)


def check(cfg: RunConfig) -> None:
    """Refuse what cannot be planned."""
    plan = cfg.plan
    least = {"plan.length": plan.length, "plan.gpus": min(plan.gpus, default=1)}
    for key, value in least.items():
        if value is not None and value < 1:
            raise ConfigError(f"{key} is {value}, and must be at least 1")
    sizes = {"plan.memory": plan.memory, "plan.bus": plan.bus, "plan.tflops": plan.tflops}
    sizes["plan.utilization"] = plan.utilization
    for key, size in sizes.items():
        if size is not None and not 0 < size < float("inf"):
            raise ConfigError(f"{key} is {size}, and must be more than 0")
    if not 0 <= plan.reserve < float("inf"):
        raise ConfigError(f"plan.reserve is {plan.reserve}, and must be at least 0")
    if cfg.full_finetuning and cfg.quantized and cfg.train.max_steps:
        raise ConfigError(
            f"lora=none trains every weight, and a dtype={cfg.dtype.name} base is frozen; "
            "use dtype=bf16 with lora=none, or lora=all"
        )


def architecture(
    model: ModelConfig, target: str, *, layers: list[int] | None
) -> tuple[Architecture, tuple[Linear, ...]]:
    """Return a model's architecture and the layers that LoRA goes to.

    Read from `model.architecture` where it is written, without importing torch; otherwise from the
    checkpoint's configuration. Raises ConfigError for a placement that cannot be, ModelError for a
    configuration that cannot be read.
    """
    if model.architecture is not None and model.kind == "causal" and target in TARGETS:
        known = llama(model.architecture)
        return known, adapted(known.linears, target, layers=layers)
    from qlora_repro.memory.checkpoint_architecture import from_checkpoint  # torch and transformers

    return from_checkpoint(model, target, layers=layers)
