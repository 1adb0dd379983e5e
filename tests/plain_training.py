"""Settings of a short training, which tests change in what they are about."""

from qlora_repro.config.schema import TrainConfig

TRAIN = TrainConfig(
    name="qlora",
    optim="paged_adamw_32bit",
    lr=1e-2,
    batch_size=4,
    micro_batch_size=2,
    epochs=None,
    max_steps=12,
    schedule="constant",
    warmup_steps=0,
    max_grad_norm=0.3,
    beta2=0.999,
    weight_decay=0.0,
    gradient_checkpointing=False,
    group_by_length=True,
    packing=False,
    loss_mean="token",
    kernels="none",
    sharded=False,
    save_steps=3,
    keep_checkpoints=1,
    log_steps=1,
)
