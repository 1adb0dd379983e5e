"""The command in a forked process: all of it but the seconds that its imports take."""

import os
import runpy
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from running import RUN


@dataclass(frozen=True)
class Forked:
    """A command that runs beside the test."""

    pid: int
    folder: Path

    @property
    def output(self) -> str:
        path = self.folder / f"output-{self.pid}"
        return path.read_text() if path.exists() else ""

    def end(self) -> int:
        """Wait for it; return its exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill_after(self, seconds: float) -> bool:
        """Let it run so long, then kill it as a power cut would; False when it had ended before."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return False
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        self.end()
        return True


def fork(folder: Path, *words: str) -> Forked:
    """Start the command in a copy of this process, which has imported everything."""
    from qlora_repro import pipeline  # noqa: F401  # so that no child has to

    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Forked(pid, folder)
    code = 70
    try:
        os.chdir(folder)
        output = os.open(f"output-{os.getpid()}", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        sys.argv = [str(RUN), *words]
        try:
            runpy.run_path(str(RUN), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)
