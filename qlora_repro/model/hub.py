"""A checkpoint from the model hub, or one sentence on why not and which command helps."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the hub's own client

from qlora_repro.errors import ModelError

DESCRIPTION_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]  # configuration and tokenizer
SAFETENSORS_FILES = ["model.safetensors", "model-*-of-*.safetensors"]
# only for a repository with nothing else
PICKLED_FILES = ["pytorch_model.bin", "pytorch_model-*-of-*.bin"]
OTHER_FORMATS = ["*/*", "flax_*", "tf_*", "onnx*"]  # other formats of the same weights


def download_checkpoint(path: str, *, revision: str | None, code: bool) -> tuple[Path, str]:
    """Return (folder in the hub's cache, commit) of a model repository at a revision.

    Downloads what is not in the cache yet: configuration, tokenizer and one copy of the weights, as
    safetensors unless the repository has none; Python files only with `code`. A cached copy is used
    where the hub cannot be reached.

    Raises:
        ModelError: the repository cannot be had, with what would help; so do the other functions.
    """
    files = DESCRIPTION_FILES + (["*.py"] if code else [])
    folder = _download(path, revision, files + SAFETENSORS_FILES)
    if not any(folder.glob("*.safetensors")):
        folder = _download(path, revision, files + PICKLED_FILES)
    return folder, folder.name


def download_config(path: str, *, revision: str | None, code: bool) -> Path:
    """Return a folder with a repository's configuration and no weights."""
    return _download(path, revision, ["config.json", *(["*.py"] if code else [])])


def download_tokenizer(path: str, *, revision: str | None, code: bool) -> Path:
    """Return a folder with a repository's tokenizer and configuration."""
    return _download(path, revision, DESCRIPTION_FILES + (["*.py"] if code else []))


def _download(path: str, revision: str | None, patterns: list[str]) -> Path:
    at = f"{path} at revision {revision or 'main'}"
    page = f"https://huggingface.co/{path}"
    try:
        folder = snapshot_download(
            path, revision=revision, allow_patterns=patterns, ignore_patterns=OTHER_FORMATS
        )
    except HFValidationError as error:
        raise ModelError(
            f"model.path={path!r} is not a hub id of the form owner/name; for a folder on this "
            "machine write model=local model.path=DIR"
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            f"{path} is gated; accept its licence at {page} and run hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{path} has no revision {revision!r}; {page}/commits/main lists its commits"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {path}, or it is private; check model.path, or run hf auth login"
        ) from error
    except (LocalEntryNotFoundError, httpx.HTTPError, HfHubHTTPError) as error:
        raise ModelError(
            f"the hub cannot be reached, and {_missing_file(error)} of {at} is not in the local "
            f"cache; run hf download {path} --revision {revision or 'main'} where there is a "
            "network, then run again with HF_HUB_OFFLINE=1"
        ) from error
    except OSError as error:
        raise ModelError(
            f"{at} cannot be stored ({error.strerror or error}); set HF_HOME"
        ) from error
    return Path(folder)


def _missing_file(error: Exception) -> str:
    """Return which file there is not: named by the hub's client when it knows the list of files."""
    if isinstance(error, IncompleteSnapshotError):
        _, listed, rest = str(error).partition("missing (")
        if listed:
            return rest.partition(")")[0].partition(", ...")[0]
    return "config.json"
