"""How Hydra reads a command line and composes its cells, where its own way will not do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

# A run's id that Hydra reads as a float, and so loses: one in 300 has digits around a single e.
FLOAT_LIKE = re.compile(r"(?<![^=,\[\s])(?=[0-9]+e[0-9]+(?![^,\]\s]))[0-9e]{12}(?![0-9e])")


def ids_quoted(word: str) -> str:
    """Return an override whose ids stay texts; one with quotes in it is left as it is.

    >>> ids_quoted("judge.run=30e123456789"), ids_quoted("judge.opponent=[base,1e2345678901]")
    ("judge.run='30e123456789'", "judge.opponent=[base,'1e2345678901']")
    >>> ids_quoted("judge.run=tiny-s0-30e123456789"), ids_quoted("train.lr=1e-4")
    ('judge.run=tiny-s0-30e123456789', 'train.lr=1e-4')
    """
    quoted = "'" in word or '"' in word
    return word if quoted else FLOAT_LIKE.sub(lambda found: f"'{found[0]}'", word)


@contextmanager
def composed_once() -> Iterator[None]:
    """Compose each cell of a sweep once, and read each file of conf/ once: Hydra cannot be told to.

    Hydra composes all cells before the first one runs, which refuses a mistake in any of them at
    once, and each again when it runs; that takes longer than looking a finished cell up in the
    store. A launcher's workers compose for themselves.
    """
    compose, read = ConfigLoaderImpl.load_sweep_config, ConfigRepository.load_config
    made: dict[tuple[str, ...], DictConfig] = {}
    files: dict[tuple[str, ...], ConfigResult | None] = {}

    def composed(
        self: ConfigLoaderImpl, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        words = tuple(sweep_overrides)
        if words in made:
            return made.pop(words)  # whoever runs the cell may change it
        made[words] = compose(self, master_config, sweep_overrides)
        return made[words]

    def loaded(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        name = config_path, *(source.path for source in self.sources)
        if name not in files:
            files[name] = read(self, config_path)
        return deepcopy(files[name])  # composing changes it

    ConfigLoaderImpl.load_sweep_config = composed  # type: ignore[method-assign]
    ConfigRepository.load_config = loaded  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_sweep_config = compose  # type: ignore[method-assign]
        ConfigRepository.load_config = read  # type: ignore[method-assign]
