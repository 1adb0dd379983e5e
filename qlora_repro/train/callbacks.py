"""What happens along training: progress on the screen, on record, and in a tracker.

None of it decides a result; results are in the store.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, Self, cast

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerState

from qlora_repro.config.schema import TrackerConfig
from qlora_repro.console import interactive, say
from qlora_repro.errors import ConfigError

PROGRESS_LINES = 8  # of a run, about, where the output is no terminal


class ProgressBar(TrainerCallback):
    """Show loss, tokens per second and time left: a bar in a terminal, lines in a pipe."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens  # real tokens of each step
        self.bar: Progress | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the clock; a resumed run counts only what is left to do."""
        self.start_time, self.first_step = time.monotonic(), state.global_step
        if self.first_step:
            say(f"  taken up at step {self.first_step} of {state.max_steps}")
        if interactive():
            columns = (TextColumn("  training"), BarColumn(), TextColumn("{task.fields[status]}"))
            self.bar = Progress(*columns, TimeRemainingColumn(), transient=True)
            self.task = self.bar.add_task("", total=state.max_steps, status="")
            self.bar.start()

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Show the step that was just done."""
        loss = kwargs.get("logs", {}).get("loss")
        if loss is None:
            return
        step, every = state.global_step, max(1, state.max_steps // PROGRESS_LINES)
        seconds = time.monotonic() - self.start_time
        speed = sum(self.tokens[self.first_step : step]) / seconds
        status = f"step {step}/{state.max_steps}  loss {loss:.3f}  {speed:,.0f} tokens/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, status=status)
        elif step % every == 0 or step in (state.max_steps, self.first_step + 1):
            left = seconds / (step - self.first_step) * (state.max_steps - step)
            say(f"  {status}  {left:,.0f} s left")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bar off the screen, whatever happened."""
        if self.bar is not None:
            self.bar.stop()


class ProgressRecorder(TrainerCallback):
    """Record how far training is, at most once a second."""

    def __init__(self, record: Callable[..., None]) -> None:
        self.record = record  # writes a stage and its numbers into the run's folder
        self.last_time = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the clock; a resumed run counts only what is left to do."""
        self.start_time, self.first_step = time.monotonic(), state.global_step

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Record the step, and the seconds that are left at the speed so far."""
        now = time.monotonic()
        if now - self.last_time < 1:
            return
        self.last_time = now
        a_step = (now - self.start_time) / (state.global_step - self.first_step)
        self.record(
            "training",
            step=state.global_step,
            steps=state.max_steps,
            seconds_a_step=a_step,
            seconds_left=a_step * (state.max_steps - state.global_step),
        )


class Tracker(Protocol):
    """Takes numbers while a run goes on; a run of wandb is one."""

    def log(self, numbers: dict[str, float], /) -> None:
        """Take numbers by name."""


class NullTracker:
    """Takes numbers and drops them: tracker=none."""

    def log(self, numbers: dict[str, float], /) -> None:
        """Do nothing."""


class TrackerCallback(TrainerCallback):
    """Send each step's numbers to a tracker."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Pass on what the Trainer logs."""
        logs = kwargs.get("logs", {})
        self.tracker.log({f"train/{k}": v for k, v in logs.items() if isinstance(v, int | float)})


@contextmanager
def open_tracker(
    cfg: TrackerConfig, *, name: str, config: Mapping[str, Any], folder: Path
) -> Iterator[Tracker]:
    """Open one tracker run for one cell and close it whatever happens.

    wandb is imported here, and only when it is chosen; offline it writes to `folder`/wandb.

    Args:
        cfg: The tracker section.
        name: What the tracker calls the run.
        config: The settings that it shows beside the numbers.
        folder: Where wandb keeps its files.

    Raises:
        ConfigError: tracker.mode is none of wandb's.
    """
    if cfg.name == "none":
        yield NullTracker()
        return
    if cfg.mode not in ("offline", "online", "disabled"):
        raise ConfigError(f"tracker.mode is {cfg.mode!r}, and must be offline, online or disabled")
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=cfg.project,
        name=name,
        config=dict(config),
        dir=str(folder),
        mode=cast(Literal["offline", "online", "disabled"], cfg.mode),
        reinit="finish_previous",
        settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
    )
    exit_code = 1
    try:
        yield run
        exit_code = 0
    finally:
        run.finish(exit_code=exit_code)
