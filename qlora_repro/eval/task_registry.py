"""From task names to loaded lm-eval tasks: built in, embedded, or from the user's own folder."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import datasets
import jinja2
import lm_eval.tasks
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the hub's own client
from lm_eval.tasks import TaskManager

from qlora_repro.errors import ConfigError, DataError
from qlora_repro.eval import procedural_tasks

BUILT_IN = Path(lm_eval.tasks.__file__).parent
READERS = ("json", "csv", "parquet", "text", "arrow")  # `datasets` reads these from local files
Spec = str | dict[str, Any]


def find(names: Sequence[str], *, include_path: str | None) -> TaskManager:
    """Return an index that holds every name and all their members.

    lm-eval ships some 14,000 tasks and takes ten seconds and more to index them, so they are left
    out when our own and the user's folder have what was asked for.
    """
    folders = [procedural_tasks.TASKS]
    if include_path is not None:
        folder = Path(include_path).expanduser()
        if not folder.is_dir():
            raise ConfigError(
                f"eval.include_path is {include_path}, which is not a folder; it must be one that "
                "holds lm-eval task YAMLs"
            )
        folders.append(folder)
    manager = TaskManager(include_defaults=False, include_path=list(folders))
    if not all(complete(name, manager) for name in names):
        manager = TaskManager(include_defaults=False, include_path=[BUILT_IN, *folders])
    for name in names:
        if name not in manager.task_index:
            raise ConfigError(unknown(name, manager, include_path))
    return manager


def unknown(name: str, manager: TaskManager, include_path: str | None) -> str:
    """Say that a task name is not known, and which names come nearest."""
    near = get_close_matches(name, manager.all_tasks, n=5, cutoff=0.5)
    message = f"eval.tasks has {name!r}, which lm-eval does not know"
    message += f"; the nearest names are {', '.join(near)}" if near else ""
    if include_path is None:
        return message + "; a task of your own needs eval.include_path=FOLDER"
    folder = Path(include_path).expanduser().resolve()
    own = sorted(
        key
        for key, entry in manager.task_index.items()
        if entry.yaml_path is not None and entry.yaml_path.resolve().is_relative_to(folder)
    )
    return f"{message}; {include_path} holds {', '.join(own) or 'no task YAML that can be read'}"


def members(name: str, manager: TaskManager) -> Iterator[str]:
    """Yield the names that a group or a tag is made of, one level down; nothing for a task."""
    entry = manager.task_index.get(name)
    if entry is None:
        return
    if entry.kind.name == "TAG":
        yield from sorted(entry.tags)
    listed = (entry.cfg or {}).get("task")
    if entry.kind.name == "GROUP" and isinstance(listed, list):
        for item in listed:
            child = item if isinstance(item, str) else item.get("group") or item.get("task")
            if isinstance(child, str) and (isinstance(item, str) or len(item) <= 2):
                yield child  # an item with more keys may define its task on the spot


def complete(name: str, manager: TaskManager) -> bool:
    """Whether the index holds a name and everything that it is made of."""
    if name not in manager.task_index:
        return False
    return all(complete(child, manager) for child in members(name, manager))


def sources(name: str, manager: TaskManager) -> set[str]:
    """Return the data sets (hub ids or reader names) that a task or group reads."""
    entry = manager.task_index.get(name)
    path = (entry.cfg or {}).get("dataset_path") if entry is not None else None
    found = {path} if isinstance(path, str) else set()
    for child in members(name, manager):
        found |= sources(child, manager)
    return found


def load(name: str, spec: Spec, manager: TaskManager) -> dict[str, dict[str, Any]]:
    """Load one task, group or tag with its data: {"tasks": {name: Task}, "groups": {…}}."""
    try:
        loaded: dict[str, dict[str, Any]] = {**manager.load([spec])}
    except (OSError, ValueError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        raise DataError(unreachable(name, sources(name, manager), error)) from error
    except (TypeError, KeyError, ImportError, AttributeError, jinja2.TemplateError) as error:
        raise ConfigError(
            f"task {name} cannot be built from its YAML ({type(error).__name__}: "
            f"{first_line(error)}); lm-eval's task guide lists the fields that it must hold"
        ) from error
    return loaded


def unreachable(name: str, paths: set[str], error: Exception) -> str:
    """Say which data set of a task could not be loaded, why, and what helps."""
    hub = sorted(path for path in paths if path not in READERS)
    cause = f"{type(error).__name__}: {first_line(error)}"
    if not hub:
        return (
            f"the data of task {name} cannot be read ({cause}); check the data_files under "
            "dataset_kwargs in its YAML, which start from the working directory"
        )
    commands = "; ".join(f"hf download --repo-type dataset {path}" for path in hub)
    return (
        f"task {name} needs the data set {', '.join(hub)} and it cannot be loaded ({cause}); "
        f"with a connection run `{commands}` once, then HF_HUB_OFFLINE=1 keeps to that copy"
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, without a full stop."""
    return (str(error).strip().splitlines() or ["no details"])[0].rstrip(". ")
