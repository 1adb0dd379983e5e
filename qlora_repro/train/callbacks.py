"""How far training is: a live bar in a terminal, a plain line now and then in a pipe.

Logging to a tracker. Results never depend on it: they are in the store.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, Self, cast

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qlora_repro.config.schema import TrackerConfig
from qlora_repro.console import interactive, say
from qlora_repro.errors import ConfigError

LINES = 8  # in a pipe: about so many lines a run


class ShowProgress(TrainerCallback):
    """Loss, real tokens per second and time left; `tokens` holds the real tokens of each step."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens
        self.bar: Progress | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock; a resumed run counts only what is left to do."""
        self.began, self.first = time.monotonic(), state.global_step
        if self.first:
            say(f"  taken up at step {self.first} of {state.max_steps}")
        if interactive():
            columns = (TextColumn("  training"), BarColumn(), TextColumn("{task.fields[words]}"))
            self.bar = Progress(*columns, TimeRemainingColumn(), transient=True)
            self.task = self.bar.add_task("", total=state.max_steps, words="")
            self.bar.start()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the step that was just done."""
        logs = kwargs.get("logs", {})
        if "loss" not in logs:
            return
        done, every = state.global_step, max(1, state.max_steps // LINES)
        seconds = time.monotonic() - self.began
        speed = sum(self.tokens[self.first : done]) / seconds
        words = f"step {done}/{state.max_steps}  loss {logs['loss']:.3f}  {speed:,.0f} tokens/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, words=words)
        elif done % every == 0 or done == state.max_steps or done == self.first + 1:
            left = seconds / (done - self.first) * (state.max_steps - done)
            say(f"  {words}  {left:,.0f} s left")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Take the live bar off the screen, whatever happened."""
        if self.bar is not None:
            self.bar.stop()


class Tracker(Protocol):
    """Takes numbers while a run goes on."""

    def log(self, numbers: Mapping[str, float]) -> None:
        """Note numbers by name."""


class Silent:
    """tracker=none."""

    def log(self, numbers: Mapping[str, float]) -> None:
        """Do nothing."""


class _Wandb:
    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, numbers: Mapping[str, float]) -> None:
        """Send one row."""
        self.run.log(dict(numbers))


@contextmanager
def tracking(
    cfg: TrackerConfig, *, name: str, config: Mapping[str, Any], folder: Path
) -> Iterator[Tracker]:
    """Open one tracker run for one cell and close it whatever happens.

    wandb is imported here and only when it is chosen; offline it writes to `folder`/wandb.
    """
    if cfg.name == "none":
        yield Silent()
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
    failed = 1
    try:
        yield _Wandb(run)
        failed = 0
    finally:
        run.finish(exit_code=failed)
