"""Claims: one owner, handed over by death or by silence, whatever the clocks say."""

import os
import threading
import time
from pathlib import Path

import pytest

from qlora_repro.store import lock
from qlora_repro.store.lock import describe_holder, hold_lock


def of_another_host(path: Path, *, lease: float) -> None:
    """Write the claim of a process on a machine that this one cannot ask."""
    from filelock import SoftFileLease

    with SoftFileLease(path, lease_duration=lease) as held:
        text = path.read_text()
        assert held.owner is not None
        host = held.owner.hostname
    path.write_text(text.replace(f"host={host}", "host=elsewhere"))


def test_one_owner_at_a_time_and_the_next_one_after_it(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with hold_lock(path, wait=False) as first:
        assert first is not None
        assert describe_holder(path) == f"process {os.getpid()} on this machine"
        with hold_lock(path, wait=False) as second:
            assert second is None
    assert describe_holder(path) is None
    with hold_lock(path, wait=False) as third:
        assert third is not None
        assert third.compromise is None


def test_who_waits_gets_the_claim_when_it_is_free(tmp_path: Path) -> None:
    path, order = tmp_path / "run", list[str]()

    def waiting() -> None:
        with hold_lock(path, wait=True) as held:
            order.append("second" if held else "none")

    with hold_lock(path, wait=False):
        thread = threading.Thread(target=waiting)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_silent_claim_of_another_machine_is_taken_over_after_a_lease_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.0)
    path = tmp_path / "run"
    of_another_host(path, lease=1.0)
    assert describe_holder(path) is not None
    assert "on elsewhere" in str(describe_holder(path))
    began = time.monotonic()
    with hold_lock(path, wait=True) as held:
        assert held is not None
        assert time.monotonic() - began > 0.9


@pytest.mark.parametrize("shift", [-86_400, 86_400], ids=["behind", "ahead"])
def test_a_clock_that_is_a_day_off_neither_frees_a_claim_nor_keeps_it(
    shift: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.0)
    path = tmp_path / "run"
    of_another_host(path, lease=1.0)
    os.utime(path, (time.time() + shift,) * 2)
    with hold_lock(path, wait=False) as early:
        assert early is None
    with hold_lock(path, wait=True) as late:
        assert late is not None


def test_who_waits_says_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, words, spoke = tmp_path / "run", list[str](), threading.Event()

    def wait_for_it() -> None:
        with hold_lock(path, wait=True):
            pass

    monkeypatch.setattr(lock, "SECONDS_BETWEEN_WORDS", 0.0)
    monkeypatch.setattr(lock, "say", lambda text: (words.append(text), spoke.set()))
    with hold_lock(path, wait=False):
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        assert spoke.wait(60)
    thread.join(60)
    assert words[0] == f"waiting for process {os.getpid()} on this machine, which has run"
