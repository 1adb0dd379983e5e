"""Hydra composes each cell of a sweep before the first one runs, and again when it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig


@contextmanager
def composed_once() -> Iterator[None]:
    """Let the second time take what the first one made, which Hydra has no setting for.

    The first time refuses a mistake in any cell at once. Composing takes longer than looking a
    finished cell up in the store. A launcher's workers compose for themselves.
    """
    compose = ConfigLoaderImpl.load_sweep_config
    made: dict[tuple[str, ...], DictConfig] = {}

    def load(
        self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        words = tuple(sweep_overrides)
        if words in made:
            return made.pop(words)  # whoever runs the cell may change it
        made[words] = compose(self, master_config, sweep_overrides)
        return made[words]

    ConfigLoaderImpl.load_sweep_config = load  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_sweep_config = compose  # type: ignore[method-assign]
