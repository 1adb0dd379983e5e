"""A search's journal after a fault: what is damaged is dropped, and the search goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna", reason="the extra optuna is absent")

from qlora_repro.errors import StoreError  # noqa: E402
from qlora_repro.sweep.optuna_journal import ChecksummedJournal, lock_study  # noqa: E402


def scores(path: Path) -> list[float | None]:
    """Return the scores that a search finds when it goes on."""
    storage = optuna.storages.JournalStorage(ChecksummedJournal(path))
    study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
    return [trial.value for trial in study.trials]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "outputs" / "optuna.jsonl"
    storage = optuna.storages.JournalStorage(ChecksummedJournal(path))
    study = optuna.create_study(study_name="s", storage=storage)
    for score in (0.25, 0.5, 0.75):
        study.tell(study.ask({"x": optuna.distributions.IntDistribution(1, 9)}), score)
    return path


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda text: text, [0.25, 0.5, 0.75]),
        (lambda text: text[:-20], [0.25, 0.5, None]),  # a full disk
        (lambda text: text.replace(b"0.5", b"0.9"), [0.25, None]),  # an edited score
        (lambda text: text.replace(b'"op_code":4', b'"op_code":5'), []),  # one flipped bit
        (lambda text: b"\0" * len(text), []),
    ],
)
def test_a_damaged_tail_is_named_and_dropped_and_the_search_goes_on(
    damage: Callable[[bytes], bytes],
    left: list[float | None],
    journal: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = journal.read_bytes()
    journal.write_bytes(damage(whole))
    assert scores(journal) == left
    assert ("is damaged from line" in capsys.readouterr().out) == (damage(whole) != whole)
    assert scores(journal) == left
    assert "is damaged" not in capsys.readouterr().out


def test_a_journal_from_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "optuna.jsonl"
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    study = optuna.create_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
    study.tell(study.ask(), 0.5)
    assert scores(path) == [0.5]


def test_a_second_search_of_the_same_study_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "optuna.jsonl"
    lock = lock_study(path, "s")
    with pytest.raises(StoreError, match="another search is at s in"):
        lock_study(path, "s")
    lock.release()
    lock_study(path, "s").release()
