"""hydra/sweeper=optuna: a search for settings by a validation score, resumable from its storage.

Optuna proposes and remembers, Hydra's launcher runs the trials, the score is read from the store.
A trial that a killed search left behind is taken up with its own settings, and before each batch
the sampler is seeded by the number of finished trials, so that a search which was interrupted
proposes what one that was not would have.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table

from qlora_repro.console import note, right_aligned, say
from qlora_repro.errors import ConfigError, QloraError
from qlora_repro.records import Metric
from qlora_repro.reporting.stored_result import load_result
from qlora_repro.store.cell import find_cell
from qlora_repro.sweep.cells import format_command, read_records

PROCEDURAL_TASKS = ("procedural_mc", "procedural_exact")  # eval.seed draws them
HELD_OUT_TASKS = ("rouge",)  # of the data.holdout rows


class OptunaSearch:
    """One search; Hydra makes it from conf/hydra/sweeper/optuna.yaml."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.overrides: list[str] = []  # of every trial
        self.job = 0

    def setup(
        self, config: DictConfig, *, hydra_context: HydraContext, task_function: TaskFunction
    ) -> None:
        """Make the launcher."""
        self.folder = Path(str(config.hydra.sweep.dir))
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until there are as many as asked for; show all. ConfigError if it cannot."""
        from optuna.samplers import TPESampler

        seed, startup = int(self.settings["seed"]), int(self.settings["startup"])
        space, self.overrides = self._parse_space(arguments)
        study = self._open_study(space)
        while left := int(self.settings["trials"]) - len(finished_trials(study)):
            if left < 0:
                break
            done = len(finished_trials(study))
            study.sampler = TPESampler(seed=seed + done, n_startup_trials=startup)
            self._run_batch(study, space, size=min(left, int(self.settings["n_jobs"])))
        self._show_trials(study)

    def _parse_space(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        params = self.settings["params"] or {}
        validation = list(self.settings["validation"] or [])
        task = str(self.settings["objective"][0])
        if task not in (*PROCEDURAL_TASKS, *HELD_OUT_TASKS):
            raise ConfigError(
                f"hydra.sweeper.objective names {task}, whose score is a test score: a search by "
                "it would choose by the test; choose "
                f"{', '.join((*PROCEDURAL_TASKS, *HELD_OUT_TASKS))}"
            )
        if task in PROCEDURAL_TASKS and not any(w.startswith("eval.seed=") for w in validation):
            raise ConfigError(
                "hydra.sweeper.validation has no eval.seed=, without which a search would choose "
                "by the questions that tables are made of; write [eval.seed=9001]"
            )
        overrides = [
            *(f"{name}={value}" for name, value in params.items()),
            *arguments,
            *validation,
        ]
        space: dict[str, Any] = {}
        fixed: list[str] = []
        for override in OverridesParser.create().parse_overrides(overrides):
            if override.is_sweep_override():
                space[override.get_key_element()] = parse_distribution(override)
            else:
                fixed.append(str(override.input_line))
        if not space:
            raise ConfigError(
                "hydra/sweeper=optuna has nothing to search; write an interval, as in "
                "'train.lr=tag(log,interval(1e-5,1e-2))'"
            )
        return space, fixed

    def _open_study(self, space: dict[str, Any]) -> Any:
        import optuna
        from optuna.storages import JournalStorage

        from qlora_repro.sweep.optuna_journal import ChecksummedJournal, lock_study

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = Path(str(self.settings["storage"]))
        identity = [sorted(self.overrides), {k: str(v) for k, v in sorted(space.items())}]
        identity += [list(self.settings["objective"]), self.settings["direction"]]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
        name = str(self.settings["study"] or f"search-{digest}")
        self.lock = lock_study(path, name)  # until the process ends
        return optuna.create_study(
            study_name=name,
            storage=JournalStorage(ChecksummedJournal(path)),
            direction=self.settings["direction"],
            load_if_exists=True,
        )

    def _run_batch(self, study: Any, space: dict[str, Any], *, size: int) -> None:
        from optuna.trial import TrialState

        trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))[:size]
        trials = [(trial.number, dict(trial.params)) for trial in trials if trial.params]
        while len(trials) < size:
            trial = study.ask(space)
            trials.append((trial.number, dict(trial.params)))
        overrides = [
            [*self.overrides, *(f"{k}={v}" for k, v in params.items())] for _, params in trials
        ]
        first, self.job = self.job, self.job + len(trials)
        try:
            self.launcher.launch(overrides, initial_job_idx=first)
        except (HydraException, OmegaConfBaseException, QloraError):
            raise  # of the command, and not of a worker
        except Exception as error:  # noqa: BLE001  # what finished is in the store
            note(f"the launcher gave up ({type(error).__name__}: {str(error).strip()[:200]})")
        for job, (number, _) in enumerate(trials, start=first):
            value, interval = self._load_score(job)
            study.set_user_attr(f"interval {number}", interval)
            state = TrialState.FAIL if value is None else None
            study.tell(number, value, state=state, skip_if_finished=True)

    def _load_score(self, number: int) -> tuple[float | None, str]:
        """Return a trial's score from the store and its n and interval; None if it has none."""
        for record in read_records(self.folder):
            cfg = record.run_config if record.number == number else None
            if cfg is not None:
                after = load_result(find_cell(cfg)).after
                for metric in after.metrics if after else []:
                    if [metric.task, metric.name] == list(self.settings["objective"]):
                        return metric.value, _format_interval(metric)
        return None, "-"

    def _show_trials(self, study: Any) -> None:
        done = finished_trials(study)
        lost = [trial for trial in done if trial.value is None]
        task, metric = self.settings["objective"]
        columns = right_aligned("trial", *done[0].params, "score", "95% interval, n")
        title = f"{study.study_name}: {task} {metric}"
        table = Table(*columns, title=title, title_justify="left")
        for trial in done:
            score = "failed" if trial.value is None else f"{trial.value:.3f}"
            spread = str(study.user_attrs.get(f"interval {trial.number}", "-"))
            table.add_row(
                str(trial.number), *map(_format_value, trial.params.values()), score, spread
            )
        say(table)
        say(f"{len(done)} trials, {len(lost)} of them without a score")
        if len(lost) < len(done):
            best = study.best_trial
            validation = set(self.settings["validation"] or [])
            overrides = [o for o in self.overrides if o not in validation]
            overrides += [f"{name}={value}" for name, value in best.params.items()]
            say(
                f"best: trial {best.number}, {best.value:.3f}, the highest of {len(done)} noisy "
                "scores and so too good; its score on other questions comes from"
            )
            say(f"  {format_command(overrides)}")


def finished_trials(study: Any) -> list[Any]:
    """Return the trials that count, in order: those with a score and those that failed."""
    from optuna.trial import TrialState

    states = (TrialState.COMPLETE, TrialState.FAIL)
    return list(study.get_trials(deepcopy=False, states=states))


def parse_distribution(override: Override) -> Any:
    """Return what optuna draws a setting from: an interval, linear or tagged log, or choices."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high, log = value.start, value.end, "log" in value.tags
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(float(low or 0), float(high or 0), log=log)
    choices = override.sweep_iterator(transformer=Transformer.encode)
    return CategoricalDistribution(tuple(dict.fromkeys(map(str, choices))))


def _format_interval(metric: Metric) -> str:
    if metric.value is None or metric.stderr is None:
        return f"no interval, {metric.n}"
    from qlora_repro.stats.intervals import normal_interval

    low, high = normal_interval(metric.value, metric.stderr)
    return f"[{low:.3f}, {high:.3f}], {metric.n}"


def _format_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
