"""What ranks other than 0 do: train, score and answer along, keep silent, write nothing."""

import os
import signal
import sys
import warnings
from collections.abc import Callable

from qlora_repro.config import validate
from qlora_repro.console import sentence
from qlora_repro.distributed.process_group import failed_elsewhere, in_step, together
from qlora_repro.sweep.run_cell import worded


def follow() -> int:
    """Work along with rank 0 whatever it says, until it is done; return the exit code.

    The first rank to fail says why, whichever it is.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # rank 0 has the last word on an interruption
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever writes there, libraries too
    warnings.simplefilter("ignore")
    from qlora_repro.pipeline import score_along
    from qlora_repro.stages.generate import answer_along  # slow: rank 0 imports at the same time
    from qlora_repro.stages.train import train_along

    along: dict[str, Callable[..., None]] = {
        "train": train_along,
        "score": score_along,
        "answer": answer_along,
    }
    try:
        while (order := together().next_order()) is not None:
            with in_step():
                along[order.pop("work")](validate.again(order.pop("config")), **order)
    except Exception as error:  # noqa: BLE001  # rank 0 is told, and torchrun ends the others
        if not failed_elsewhere():
            failed = worded(error)
            sys.stderr.write(failed.trace if failed.unforeseen else "")
            sentence(failed.why)
        return 1
    together().part()
    return 0
