import json
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from qlora_repro.errors import ModelError
from qlora_repro.model import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ("config.json", "tokenizer.json", "model.safetensors")


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with one repository, as a finished download leaves it; no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--owner--name"
    folder = repo / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("{}")
    tree = {name: {"size": 2, "blob_id": "a" * 40} for name in (*FILES, "onnx/model.onnx")}
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "trees").mkdir()
    (repo / "trees" / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": tree}))
    return folder


def test_a_branch_resolves_to_its_commit(snapshot: Path) -> None:
    assert hub.download_checkpoint("owner/name", revision="main", code=False) == (snapshot, COMMIT)


def test_a_repository_that_is_not_there_offline_names_file_and_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ModelError, match=r"cannot be reached, and config.json of owner/name at rev"
    ) as e:
        hub.download_checkpoint("owner/name", revision="v1", code=False)
    assert "run hf download owner/name --revision v1" in str(e.value)
    assert "HF_HUB_OFFLINE=1" in str(e.value)


def test_an_unfinished_download_names_the_file_that_is_missing(snapshot: Path) -> None:
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model.safetensors of owner/name at revision main"):
        hub.download_checkpoint("owner/name", revision="main", code=False)


def test_a_folder_given_as_a_hub_id_is_sent_to_local() -> None:
    with pytest.raises(ModelError, match=r"not a hub id .*model=local model.path=DIR"):
        hub.download_checkpoint("./some/folder/here", revision=None, code=False)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (GatedRepoError, "is gated; accept its licence at https://huggingface.co/owner/name"),
        (RevisionNotFoundError, "has no revision 'v1'"),
        (RepositoryNotFoundError, "the hub has no model owner/name, or it is private"),
    ],
)
def test_what_the_hub_refuses_becomes_one_sentence(
    error: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise error.__new__(error)  # the constructor wants a whole HTTP response

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match=sentence):
        hub.download_checkpoint("owner/name", revision="v1", code=False)


def test_a_repository_without_safetensors_gives_its_pickled_weights(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snapshot / "model.safetensors").unlink()
    asked: list[list[str]] = []

    def download(path: str, *, allow_patterns: list[str], **_: object) -> str:
        asked.append(allow_patterns)
        return str(snapshot)

    monkeypatch.setattr(hub, "snapshot_download", download)
    hub.download_checkpoint("owner/name", revision=None, code=False)
    assert "pytorch_model.bin" not in asked[0]
    assert "pytorch_model.bin" in asked[1]
    assert not any("*.py" in patterns for patterns in asked)
