"""What rank 0 does beside the work of one process: it sends the others home, and says so little.

Torch is imported only where there are others.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig

from qlora_repro.distributed.environment import processes
from qlora_repro.errors import ConfigError

HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # cells run in this process


@contextmanager
def leading() -> Iterator[None]:
    """Let the other ranks go home once the command is done, however it ends."""
    if processes() > 1:
        signal.signal(signal.SIGTERM, _ended)  # of torchrun, when a rank is gone or it was ended
    try:
        yield
    finally:
        dismiss()


def dismiss() -> None:
    """Tell the other ranks that there is nothing more to do."""
    if processes() == 1:
        return
    from torch.distributed import DistError

    from qlora_repro.distributed.process_group import out_of_step, together

    try:
        together().order(None)
        if not out_of_step():
            together().part()
    except DistError:  # torchrun is gone, and with it the place to meet
        return


def said_elsewhere() -> bool:
    """Whether another rank has failed, and so has said why."""
    if processes() == 1:
        return False
    from qlora_repro.distributed.process_group import failed_elsewhere

    return failed_elsewhere()


def cannot_go_on() -> bool:
    """Whether the ranks have lost each other, so that nothing more can be trained."""
    if processes() == 1:
        return False
    from qlora_repro.distributed.process_group import out_of_step

    return out_of_step()


def refuse_launcher() -> None:
    """Refuse a launcher that would run cells where the other ranks are not; ConfigError."""
    name = str(HydraConfig.get().launcher["_target_"])
    if processes() > 1 and name != HERE:
        raise ConfigError(
            f"hydra/launcher={HydraConfig.get().runtime.choices['hydra/launcher']} runs cells in "
            f"processes of their own, and {processes()} were started for each cell; use one or the "
            "other"
        )


def _ended(number: int, frame: Any) -> None:
    if not cannot_go_on():  # else torchrun follows a failure that this rank is telling of already
        raise KeyboardInterrupt
