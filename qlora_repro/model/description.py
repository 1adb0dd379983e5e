"""A model's tokenizer and configuration, before any weights are read."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from qlora_repro.config import ModelConfig
from qlora_repro.errors import ModelError
from qlora_repro.model.checkpoint import find
from qlora_repro.model.hub import hub_tokenizer
from qlora_repro.model.quiet import quiet


def load_description(model: ModelConfig) -> tuple[Any, Any]:
    """Return (tokenizer, configuration); raises ModelError where they cannot be read."""
    folder, code = _folder(model), {"trust_remote_code": model.trust_remote_code}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, **code)
            return tokenizer, AutoConfig.from_pretrained(folder, **code)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ModelError(
            f"{model.path or model.name}: its tokenizer or configuration cannot be read "
            f"({' '.join(str(error).split())[:200]}); a whole checkpoint is needed"
        ) from error


def _folder(model: ModelConfig) -> Path:
    if model.source != "hub" or not model.path:
        return find(model).folder
    return hub_tokenizer(model.path, revision=model.revision, code=model.trust_remote_code)
