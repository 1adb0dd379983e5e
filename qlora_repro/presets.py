"""What presets say in other words: passes over the data, GLUE's classes, stand-ins."""

import math

from omegaconf import OmegaConf

from qlora_repro.config import RunConfig
from qlora_repro.errors import ConfigError

GLUE_CLASSES = {"mnli": 3, "stsb": 1}  # the others have two; 1 is a regression


def steps(
    epochs: float | None, otherwise: int, rows: int | None, holdout: int, batch_size: int
) -> int:
    """Return the optimizer steps of so many passes over the rows that train; no epochs: otherwise.

    Raises ConfigError where the number of rows is not written.

    >>> steps(2, 10_000, 50_000, 0, 16), steps(None, 10_000, None, 0, 16)
    (6250, 10000)
    """
    if epochs is None:
        return otherwise
    if rows is None:
        raise ConfigError(
            f"train.epochs={epochs:g} needs to know how many rows there are, and data.rows is "
            "null; write data.rows=NUMBER"
        )
    return math.ceil((rows - holdout) * epochs / batch_size)


OmegaConf.register_new_resolver("steps", steps, replace=True)


def published_dtype(source: str) -> str:
    """Return the arithmetic of a preset whose runs are published, whatever the processor.

    The embedded model's ran in float32 on a CPU; one from a hub computes as the paper's do.
    """
    return "float32" if source in ("embedded", "random") else "bfloat16"


OmegaConf.register_new_resolver("published_dtype", published_dtype, replace=True)


def check_epochs(cfg: RunConfig) -> None:
    """Refuse passes over the data that the number of steps does not follow from."""
    train, data = cfg.train, cfg.data
    if train.epochs is None:
        return
    if not train.epochs > 0:
        raise ConfigError(f"train.epochs is {train.epochs:g}, and must be more than 0, or null")
    wanted = steps(train.epochs, 0, data.rows, data.holdout, train.batch_size)
    if train.max_steps != wanted:
        raise ConfigError(
            f"train.epochs={train.epochs:g} makes {wanted} steps, and train.max_steps is "
            f"{train.max_steps}; write one of them, with train.epochs=null for the second"
        )


def settle_classes(cfg: RunConfig) -> None:
    """Give a GLUE classifier the classes of its tasks; refuse a number that does not fit them."""
    model, data = cfg.model, cfg.data
    if model.kind != "classification" or data.name != "glue":
        return
    for task in data.tasks or filter(None, [data.config_name]):
        classes = GLUE_CLASSES.get(task, 2)
        if model.num_labels is None:
            model.num_labels = classes
        if model.num_labels != classes:
            raise ConfigError(
                f"model.num_labels is {model.num_labels}, and the GLUE task {task} needs "
                f"model.num_labels={classes}"
            )


def check_scale(cfg: RunConfig) -> None:
    """Refuse scale=small where no preset says what it would be."""
    if cfg.scale.name == "small" and not cfg.scale.stand_in:
        raise ConfigError(
            "scale=small is a preset's smaller twin, and there is none here; name a preset that "
            "has one, as in experiments=table4_mmlu_by_dtype scale=small"
        )
