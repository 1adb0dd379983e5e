import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qlora_repro.errors import ModelError
from qlora_repro.model.cache import build_once, cache_root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def write(folder: Path) -> None:
    (folder / "weights").write_text("whole")


def test_a_build_that_fails_leaves_no_folder() -> None:
    def half(folder: Path) -> None:
        write(folder)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        build_once("model", half)
    assert [p.name for p in cache_root().iterdir() if p.is_dir()] == []
    assert (build_once("model", write) / "weights").read_text() == "whole"


def test_leftovers_of_a_killed_build_are_not_taken_over() -> None:
    partial = cache_root() / f".model.{os.getpid()}.part"
    partial.mkdir(parents=True)
    (partial / "old").write_text("half")
    assert not (build_once("model", write) / "old").exists()


def test_of_several_at_once_one_builds_and_the_others_wait() -> None:
    built: list[Path] = []

    def count(folder: Path) -> None:
        built.append(folder)
        write(folder)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: build_once("model", count), range(8)))
    assert len(built) == 1
    assert set(found) == {cache_root() / "model"}


def test_cache_that_cannot_be_written_is_named_with_the_way_out(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = cache / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(ModelError, match=r"cannot be written .*set XDG_CACHE_HOME"):
        build_once("model", write)


def test_full_disk_leaves_nothing_and_names_the_folder() -> None:
    def full(folder: Path) -> None:
        raise OSError(28, os.strerror(28))

    with pytest.raises(ModelError, match=r"No space left on device.*free space"):
        build_once("model", full)
    assert not (cache_root() / "model").exists()
