"""What each data type, dataset and judge needs, registered once, and the functions they name.

Nothing here imports torch: a function is named as `module:function` and imported when it is called.
A user's own function is named the same way in the configuration. Its module is looked for beside
his options (`--config-dir`) and on PYTHONPATH, and nowhere else; `pin_function` adds a digest of
its source to the name, and a pinned function is imported only as long as that digest is right.
"""

import ast
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from qlora_repro.config.messages import nearest_names
from qlora_repro.config.paths import user_config_dir
from qlora_repro.errors import ConfigError

BNB_BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # of bitsandbytes' nf4 and fp4


@dataclass(frozen=True, kw_only=True)
class DataType:
    """A data type of stored weights."""

    bits: int  # of a value
    levels: str | None = None  # a function, called with those of bits and blocksize that it takes
    bnb_kernel: bool = False  # bitsandbytes has layers that hold it
    double_quant: bool = True  # it has block-wise constants that can be quantized too


def _quantized(bits: int, levels: str, *, bnb: bool = False, dq: bool = True) -> DataType:
    levels = f"qlora_repro.quant.codebooks:{levels}_levels"
    return DataType(bits=bits, levels=levels, bnb_kernel=bnb, double_quant=dq)


DATA_TYPES: dict[str, DataType] = {
    "fp32": DataType(bits=32, double_quant=False),
    "bf16": DataType(bits=16, double_quant=False),
    "nf4": _quantized(4, "normal_float", bnb=True),
    "fp4": _quantized(4, "fp4", bnb=True),
    "int8": _quantized(8, "integer", bnb=True, dq=False),  # LLM.int8(): one scale a row
    "fp4_e2m1": _quantized(4, "fp4_e2m1"),
    "fp4_e3m0": _quantized(4, "fp4_e3m0"),
    "fp8_e4m3": _quantized(8, "fp8_e4m3"),
    "fp8_e5m2": _quantized(8, "fp8_e5m2"),
    "af4": _quantized(4, "af4"),
    "af4_l1": _quantized(4, "af4_l1"),
    **{f"int{bits}": _quantized(bits, "integer") for bits in range(2, 8)},
    **{f"nf{bits}": _quantized(bits, "normal_float") for bits in (2, 3, 5, 6, 7, 8)},
}
FULL_PRECISION = tuple(name for name, dtype in DATA_TYPES.items() if dtype.levels is None)
BNB_DTYPES = tuple(name for name, dtype in DATA_TYPES.items() if dtype.bnb_kernel)
WITHOUT_DOUBLE_QUANT = tuple(name for name, dtype in DATA_TYPES.items() if not dtype.double_quant)


class DataKind(StrEnum):
    """Where the rows of a dataset come from."""

    PROCEDURAL = "procedural"  # made from a seed
    FILE = "file"  # a file of the user's own
    HUB = "hub"  # a table of the hub
    FUNCTION = "function"  # a function of the user's own


DATA_LOADERS: dict[DataKind, str] = {  # called with a data section and a split
    DataKind.PROCEDURAL: "qlora_repro.data.datasets:load_procedural_examples",
    DataKind.FILE: "qlora_repro.data.rows:load_file_examples",
    DataKind.HUB: "qlora_repro.data.hub_datasets:load_hub_examples",
    DataKind.FUNCTION: "qlora_repro.data.rows:load_function_examples",
}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset that has a name here."""

    kind: DataKind
    convert: str | None = None  # hub: a function from a row to its examples; None: by data.columns
    files: str | None = None  # hub: the files of the repository that are the set; None: all
    task_columns: tuple[str, ...] = ()  # that name a row's task, in one copy or another
    sampled_by_task: bool = False  # data.rows_per_task and data.examples have a meaning
    many_per_row: bool = False  # a row holds several examples


def _hub(convert: str, **facts: Any) -> Dataset:
    convert = f"qlora_repro.data.hub_datasets:{convert}"
    return Dataset(kind=DataKind.HUB, convert=convert, **facts)


DATASETS: dict[str, Dataset] = {
    "procedural": Dataset(kind=DataKind.PROCEDURAL),
    "local": Dataset(kind=DataKind.FILE),
    "alpaca": _hub("alpaca"),
    "chip2": _hub("chip2", files="unified_chip2.jsonl"),
    "flan_v2": _hub("flan_v2", task_columns=("task_name", "_task_name", "task")),
    "glue": _hub("glue"),
    "hh_rlhf": _hub("hh_rlhf"),
    "longform": _hub("longform"),
    "oasst1": _hub("oasst1"),
    # A loading script on its main branch, which `datasets` no longer runs; the hub's own conversion
    # keeps one folder per subset.
    "self_instruct": _hub("self_instruct", files="self_instruct/**/*.parquet"),
    "super_ni": _hub("super_ni", task_columns=("task_name",), sampled_by_task=True),
    "unnatural": _hub("unnatural", many_per_row=True),
}

JUDGES: dict[str, str] = {  # judge.kind -> a function of matches, a judge section and a folder
    "human": "qlora_repro.judge.other_judges:judge_human",
    "openai": "qlora_repro.judge.openai:judge_openai",
    "reference": "qlora_repro.judge.other_judges:judge_reference",
    "replay": "qlora_repro.judge.other_judges:judge_replay",
    "function": "qlora_repro.judge.other_judges:judge_by_function",
}

NAME = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)(?: sha256:([0-9a-f]{16}))?")


def is_function_name(name: str) -> bool:
    """Whether a setting names a function of the user's own, as in `my_types:levels`."""
    return ":" in name


def pin_function(name: str, *, key: str) -> str:
    """Return `module:function sha256:digest` for a function of the user's own; nothing is imported.

    Args:
        name: `module:function`, perhaps with the digest that it must have.
        key: The setting, as an error names it.

    Raises:
        ConfigError: For a name of another form, a module that is not in one of the user's folders
            or has changed since it was pinned, and a function that it does not have.
    """
    module, function, digest = _parse_name(name, key=key)
    file = _find_module(module, key=key)
    current_digest = _hash_module(module, file)
    if digest not in (None, current_digest):
        raise ConfigError(
            f"{key} names {module}:{function} as it was with sha256:{digest}, and {file} has "
            f"sha256:{current_digest}; a function that a run names is called only while it is the "
            "same"
        )
    names = _top_level_names(file)
    if function not in names:
        near = nearest_names(function, names)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{key} is {name}, and {file} defines no {function}{hint}")
    return f"{module}:{function} sha256:{current_digest}"


def import_function(name: str) -> Callable[..., Any]:
    """Return the function that a registered or a pinned name stands for.

    Raises ConfigError for a pinned one whose module is gone, has changed or cannot be imported.
    """
    module, function, digest = _parse_name(name, key="a registered function")
    if digest is None:
        return _get_function(importlib.import_module(module), function)
    pin_function(name, key=f"the run's function {module}:{function}")
    file = _find_module(module, key="the run")
    for folder in map(str, user_folders()):
        if folder not in sys.path:
            sys.path.append(folder)  # last: a user's module hides none that is installed
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"{file} cannot be imported ({reason})") from error
    if Path(str(imported.__file__)).resolve() != file.resolve():
        raise ConfigError(
            f"{file} has the name of a module that is loaded already ({imported.__file__}); give "
            "it another name"
        )
    return _get_function(imported, function)


def user_folders() -> list[Path]:
    """Return the folders in which a user's modules are looked for."""
    named = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    config_dir = user_config_dir()
    return [*([config_dir] if config_dir else []), *(Path(path).absolute() for path in named)]


def _get_function(module: Any, name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(module, name)
    return function


def _parse_name(name: str, *, key: str) -> tuple[str, str, str | None]:
    match = NAME.fullmatch(name)
    if match is None:
        raise ConfigError(
            f"{key} is {name!r}, and must be MODULE:FUNCTION, as in my_module:my_function"
        )
    return match[1], match[2], match[3]


def _find_module(name: str, *, key: str) -> Path:
    """Return a module's file without importing anything, its parents included."""
    folders: list[str] | None = [str(folder) for folder in user_folders()]
    spec = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), folders) if folders else None
        folders = list(spec.submodule_search_locations or ()) if spec else None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        searched = ", ".join(map(str, user_folders())) or "neither is given"
        raise ConfigError(
            f"{key} names the module {name}, which is neither beside the options of --config-dir "
            f"nor on PYTHONPATH ({searched})"
        )
    if parts[0] == "qlora_repro":
        raise ConfigError(f"{key} names {name}, which is a module of the project and not your own")
    return Path(spec.origin)


def _hash_module(name: str, file: Path) -> str:
    """Return a digest of a module's source and of the modules beside it that it imports."""
    folder = file.parents[name.count(".") + (file.name == "__init__.py")]
    digest = hashlib.sha256()
    for path in sorted(_source_files(name.partition(".")[0], folder, seen=set())):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _source_files(name: str, folder: Path, *, seen: set[str]) -> set[Path]:
    """Return the files of a module or package in a folder, and of those there that it imports."""
    if name in seen or name in ("", "qlora_repro"):
        return set()
    seen.add(name)
    files = {*(folder / name).rglob("*.py"), *folder.glob(f"{name}.py")}
    imported = {
        module.partition(".")[0]
        for file in files
        for node in ast.walk(_parse_source(file))
        for module in _imported_modules(node)
    }
    return files.union(*(_source_files(other, folder, seen=seen) for other in sorted(imported)))


def _imported_modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def _parse_source(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as Python: {error}") from error


def _top_level_names(file: Path) -> set[str]:
    names: set[str] = set()
    for node in _parse_source(file).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names
