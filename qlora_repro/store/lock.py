"""Claims: one process at a time works on a run, on one machine or on a shared file system.

A claim is a lease of filelock: a file that is created where none was, names host, process and start
time, and is touched every 20 s. That needs no locking by the file system, which NFS and Lustre
often lack. A claim whose process is gone from this host is taken over at once; one of another host
when it was not touched for a minute by the clock of the one that waits, so no clock is compared
with another's.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLease, Timeout

LEASE = 60.0  # s; every process must use the same


class Claim:
    """A claim that is held; `lost` once another process had reason to take it over."""

    def __init__(self, lease: SoftFileLease) -> None:
        self._lease = lease

    @property
    def lost(self) -> bool:
        """Whether this process was silent for a minute, as a laptop that slept, and superseded."""
        return self._lease.compromise is not None


@contextmanager
def claimed(path: Path, *, wait: bool) -> Iterator[Claim | None]:
    """Hold the claim of this name; give None where another process has it and there is no wait."""
    lease = SoftFileLease(path, lease_duration=LEASE, timeout=-1 if wait else 0, poll_interval=0.1)
    try:
        lease.acquire()
    except Timeout:
        yield None
        return
    try:
        yield Claim(lease)
    finally:
        lease.release()


def holder(path: Path) -> str | None:
    """Return "process 123 on this machine" or "… on HOST"; None when no live process has a claim.

    A process of another host is taken to live while the claim's age is below a lease.
    """
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return None
    owner = SoftFileLease(path, lease_duration=LEASE, timeout=0).owner
    if owner is None:
        return "a process" if age < LEASE else None
    host = owner.hostname.partition("?")[0]  # behind it stands the process namespace, if any
    if host == socket.gethostname():
        return f"process {owner.pid} on this machine" if runs(owner.pid) else None
    return f"process {owner.pid} on {host}" if age < LEASE else None


def runs(pid: int) -> bool:
    """Whether this process of this machine lives."""
    import psutil  # slow enough not to be loaded where nobody else is at work

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)  # killed, not yet gone
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
