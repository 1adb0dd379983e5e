"""Locks: one process at a time works on a run, on one machine or on a shared file system.

A lock is a lease of filelock: a file created where none was, which names host, process and start
time, and is touched every 20 s. File systems need not support locking, which NFS and Lustre often
lack. A lock whose process has ended on this host is taken over at once; one of another host when
it has not been touched for a minute by the clock of the process that waits.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLease, Timeout

from qlora_repro.console import say

LEASE_SECONDS = 60.0  # every process must use the same
SECONDS_BETWEEN_WORDS = 10.0


@contextmanager
def hold_lock(path: Path, *, wait: bool) -> Iterator[SoftFileLease | None]:
    """Hold the lock of this file; give None where another process has it and `wait` is false.

    Who waits says for whom, every ten seconds.
    """
    lease = SoftFileLease(
        path, lease_duration=LEASE_SECONDS, timeout=-1 if wait else 0, poll_interval=0.1
    )
    last_word = time.monotonic()

    def say_why() -> bool:
        nonlocal last_word
        if time.monotonic() - last_word > SECONDS_BETWEEN_WORDS:
            last_word = time.monotonic()
            holder = describe_holder(path) or "a process that is gone"
            say(f"waiting for {holder}, which has {path.name}")
        return False  # wait on

    try:
        lease.acquire(cancel_check=say_why)
    except Timeout:
        yield None
        return
    try:
        yield lease
    finally:
        lease.release()


def is_lost(lease: SoftFileLease) -> bool:
    """Whether another process took a lock over, as when a laptop slept for more than a minute.

    The file is asked: a process that goes on after it stood still must know at once.
    """
    owner = lease.owner
    return owner is None or owner.token != lease.token


def describe_holder(path: Path) -> str | None:
    """Return "process 123 on this machine" or "... on HOST"; None when no live process has a lock.

    A process of another host is taken to live while its lock was touched within the last minute.
    """
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return None
    owner = SoftFileLease(path, lease_duration=LEASE_SECONDS, timeout=0).owner
    if owner is None:
        return "a process" if age < LEASE_SECONDS else None
    host = owner.hostname.partition("?")[0]  # what follows is the process namespace
    if host == socket.gethostname():
        return f"process {owner.pid} on this machine" if is_alive(owner.pid) else None
    return f"process {owner.pid} on {host}" if age < LEASE_SECONDS else None


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is running."""
    import psutil  # slow to import, and needed only where another process is at work

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
