"""Where Hydra looks for sweepers; what this one does is in qlora_repro/sweep/optuna_search.py."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from qlora_repro.sweep.optuna_search import OptunaSearch


class OptunaSweeper(Sweeper):
    """hydra/sweeper=optuna."""

    def __init__(self, **settings: Any) -> None:
        self.search = OptunaSearch(**settings)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra composed."""
        self.search.setup(config, hydra_context=hydra_context, task_function=task_function)

    def sweep(self, arguments: list[str]) -> None:
        """Search."""
        self.search.sweep(arguments)
