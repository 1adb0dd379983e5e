"""A base model and its tokenizer, at the precision that was asked for.

`load_base` is where to start: it reads the checkpoint, quantizes its linear weights as they are
read (bitsandbytes) or afterwards (simulated), and checks that the live model is what was asked for.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import __version__ as transformers_version

from qlora_repro.config.registry import FULL_PRECISION
from qlora_repro.config.schema import DtypeConfig, ModelConfig
from qlora_repro.config.validate import SPREAD
from qlora_repro.errors import ConfigError, ModelError, OutOfMemory, is_out_of_memory
from qlora_repro.model.attention import set_attention
from qlora_repro.model.checkpoint import find_checkpoint, folder_checkpoint
from qlora_repro.model.device import (
    build_device_map,
    free_bytes_by_card,
    move_outputs_early,
    resolve_device,
)
from qlora_repro.model.library_logging import silence_transformers
from qlora_repro.model.state_guard import preserve_random_states
from qlora_repro.quant.bitsandbytes import (
    StreamingConfig,
    disable_cpu_repacking,
    insert_empty_layers,
)
from qlora_repro.quant.fake_quant import simulate_quantization
from qlora_repro.quant.finite import find_not_finite, refuse_not_finite
from qlora_repro.quant.linear_layers import find_expert_weights, find_quantizable_layers
from qlora_repro.quant.storage import check_quantized

AUTO_CLASSES: dict[str, Any] = {
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "classification": AutoModelForSequenceClassification,
}


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model on its device, in eval mode, with its tokenizer and where both came from."""

    model: Any  # a PreTrainedModel, or the PeftModel around it
    tokenizer: PreTrainedTokenizerBase
    origin: dict[str, Any]  # for the manifest; plain JSON


def load_base(
    model: ModelConfig,
    dtype: DtypeConfig,
    *,
    dq: bool,
    seed: int = 0,
    storage: torch.dtype = torch.uint8,
) -> LoadedModel:
    """Return the untuned model at the precision that `dtype` and `dq` ask for.

    Linear weights are quantized from what the checkpoint holds, cast to `dtype.compute_dtype`. What
    is not quantized is 16-bit, as in the paper: in compute_dtype, and where that is float32 (faster
    on a CPU) each value is rounded to bf16 first and held in float32; dtype=fp32 rounds nothing.
    `seed` draws a classification head that the checkpoint lacks. bitsandbytes' 4-bit codes are
    viewed as `storage`, the same bytes.

    Raises ConfigError for a section that cannot be, ModelError for a checkpoint that cannot be
    used and for a live model that is not what was asked for.
    """
    if dtype.name == "fp32" and dtype.compute_dtype != "float32":
        raise ConfigError(
            f"dtype=fp32 computes in float32, and dtype.compute_dtype is {dtype.compute_dtype}"
        )
    reader = _CheckpointReader(model)
    loaded = reader.read_model(dtype, dq=dq, seed=seed, storage=storage)
    names = [] if dtype.name in FULL_PRECISION else find_quantizable_layers(reader.build_empty())
    experts = find_expert_weights(loaded) if names else []
    if dtype.backend == "simulated" and names:
        simulate_quantization(
            loaded,
            [*names, *experts],
            dtype=dtype.data_type,
            blocksize=dtype.blocksize,
            dq=dq,
            scales=dtype.scales,
        )
    disable_cpu_repacking(loaded)
    check_quantized(loaded, names, dtype=dtype, dq=dq)
    rounded = 0 if dtype.name == "fp32" else _round_to_bf16(loaded, skip={*names, *experts})
    return reader.describe(loaded, rounded=rounded)


def load_empty(
    model: ModelConfig, dtype: DtypeConfig, *, dq: bool, storage: torch.dtype = torch.uint8
) -> LoadedModel:
    """Return what `load_base` would, without its weights: they come from another process.

    Nothing is read but the configuration and the tokenizer; weights are on the meta device.
    """
    reader = _CheckpointReader(model)
    return reader.describe(reader.build_shells(dtype, dq=dq, storage=storage), rounded=0)


def load_trained(model: ModelConfig, dtype: DtypeConfig, *, folder: Path) -> LoadedModel:
    """Return a model whose every weight was trained, as it was published: float32, nothing rounded.

    Raises ConfigError for a quantized `dtype`, ModelError as load_base does.
    """
    if dtype.name not in FULL_PRECISION:
        raise ConfigError(f"dtype={dtype.name} has no fully trained model; use dtype=bf16 or fp32")
    reader = _CheckpointReader(model, folder)
    plain = replace(dtype, name="fp32", compute_dtype="float32", backend="none")
    return reader.describe(reader.read_model(plain, dq=False, seed=0), rounded=0)


class _CheckpointReader:
    """Reads one checkpoint: its configuration, its weights, its tokenizer."""

    def __init__(self, model: ModelConfig, folder: Path | None = None) -> None:
        self.device = resolve_device(model.device)
        if model.kind == "classification" and not model.num_labels:
            raise ConfigError(f"model.num_labels is {model.num_labels}, and must be at least 1")
        checkpoint = find_checkpoint(model) if folder is None else folder_checkpoint(folder)
        self.model = model
        self.checkpoint = checkpoint
        self.trust = {"trust_remote_code": model.trust_remote_code}
        self.attention = ""  # as the model computes it
        self.new_weights: list[str] = []  # weights that the checkpoint lacks
        labels = {"num_labels": model.num_labels} if model.kind == "classification" else {}
        try:
            with silence_transformers():
                self.config = AutoConfig.from_pretrained(checkpoint.folder, **self.trust, **labels)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(self._describe_error("its configuration", error)) from error
        self._refuse_other_kind()

    def _refuse_other_kind(self) -> None:
        config, kind = self.config, self.model.kind
        fitting = [k for k, auto in AUTO_CLASSES.items() if type(config) in auto._model_mapping]
        masked = "MaskedLM" in str(getattr(config, "architectures", None))
        if masked and "causal" in fitting:
            fitting.remove("causal")  # it would load, and see the tokens it is to predict
        if kind not in fitting and not getattr(config, "auto_map", None):
            raise ModelError(
                f"{self.checkpoint.name} holds a {config.model_type} model, and model.kind={kind} "
                f"does not fit it; {' or '.join(fitting) or 'no kind of model here'} would"
            )

    def read_model(
        self, dtype: DtypeConfig, *, dq: bool, seed: int, storage: torch.dtype = torch.uint8
    ) -> PreTrainedModel:
        """Return the model; for backend=bnb each weight is quantized as it is read."""
        compute = getattr(torch, dtype.compute_dtype)
        quantized = _streaming_config(dtype, dq=dq, storage=storage)
        if quantized is not None:
            # LLM.int8() computes in float16 and says so once a layer, in each pass
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        model: PreTrainedModel
        try:
            with silence_transformers(), preserve_random_states():
                torch.manual_seed(seed)
                model, report = AUTO_CLASSES[self.model.kind].from_pretrained(
                    self.checkpoint.folder,
                    config=self.config,
                    dtype=compute,
                    device_map=self._device_map(dtype),
                    quantization_config=quantized,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # _refuse_random says it better
                    **self.trust,
                )
        except (OSError, ValueError, RuntimeError, KeyError, MemoryError, SafetensorError) as error:
            if is_out_of_memory(error):
                raise OutOfMemory(self._describe_size(dtype)) from error
            raise ModelError(self._describe_error("its weights", error)) from error
        self.new_weights = sorted(
            report["missing_keys"] | {n for n, *_ in report["mismatched_keys"]}
        )
        self._refuse_random(f"{model.base_model_prefix}.")
        if quantized is not None:
            self._refuse_other_shapes(model)
        refuse_not_finite(self.checkpoint.name, find_not_finite(model.named_parameters()))
        # Adapters name their base by hub id and commit, not by a folder in the hub's cache.
        model.name_or_path = model.config._name_or_path = self.checkpoint.name
        model.config._commit_hash = self.checkpoint.commit
        model.eval()
        if self.model.device == SPREAD:
            move_outputs_early(model)
        self.attention = set_attention(model, self.model.attention)
        return model

    def build_shells(
        self, dtype: DtypeConfig, *, dq: bool, storage: torch.dtype
    ) -> PreTrainedModel:
        """Return the model as `read_model` does, on the meta device."""
        empty: PreTrainedModel = self.build_empty(getattr(torch, dtype.compute_dtype))
        quantized = _streaming_config(dtype, dq=dq, storage=storage)
        if quantized is not None:
            insert_empty_layers(empty, quantized)
        empty.requires_grad_(False)
        empty.eval()
        self.attention = set_attention(empty, self.model.attention)
        return empty

    def _device_map(self, dtype: DtypeConfig) -> dict[str, Any]:
        """Return which module goes where: all to one device, or spread over the cards here."""
        if self.model.device != SPREAD:
            return {"": str(self.device)}
        empty = self.build_empty(getattr(torch, dtype.compute_dtype))
        return build_device_map(
            empty,
            free_bytes_by_card(),
            name=self.checkpoint.name,
            quantized=find_quantizable_layers(empty) if _uses_bitsandbytes(dtype) else [],
            dtype=dtype.name,
        )

    def _refuse_random(self, base: str) -> None:
        """Refuse weights that the checkpoint lacks, which are random, but for a new head."""
        head_is_new = self.model.kind == "classification"
        bad = [name for name in self.new_weights if name.startswith(base) or not head_is_new]
        if bad:
            raise ModelError(
                f"{self.checkpoint.name} lacks {len(bad)} of the weights that config.json calls "
                f"for, {bad[0]} among them, or has them in another shape; they would be random: "
                "a whole checkpoint is needed"
            )

    def _refuse_other_shapes(self, model: PreTrainedModel) -> None:
        """Refuse a 16-bit weight as the checkpoint has it where config.json has another shape.

        While it quantizes, transformers before 5.23 loads such a weight and does not report it.
        """
        empty = self.build_empty()
        quantized = {f"{name}.weight" for name in find_quantizable_layers(empty)}
        shapes = {name: weight.shape for name, weight in empty.named_parameters()}
        for name, weight in model.named_parameters():
            if name not in quantized and weight.shape != shapes[name]:
                raise ModelError(
                    f"{self.checkpoint.name} has {name} as {tuple(weight.shape)}, and a model with "
                    f"these settings as {tuple(shapes[name])}; transformers {transformers_version} "
                    "cannot replace it in a quantized model, 5.23 or newer can"
                )

    def build_empty(self, dtype: torch.dtype | None = None) -> Any:
        """Return the architecture without weights, in `dtype` or the checkpoint's own."""
        with silence_transformers(), torch.device("meta"):
            return AUTO_CLASSES[self.model.kind].from_config(
                self.config, **({"dtype": dtype} if dtype else {}), **self.trust
            )

    def _describe_size(self, dtype: DtypeConfig) -> str:
        empty = self.build_empty()
        size = estimate_weight_bytes(empty, find_quantizable_layers(empty), dtype=dtype)
        return (
            f"out of memory: the weights of {self.checkpoint.name} take about {size / 1e9:.2f} GB "
            f"as dtype={dtype.name}; choose a smaller model, dtype=nf4 with dtype.backend=bnb, or "
            "dtype.compute_dtype=bfloat16"
        )

    def describe(self, model: PreTrainedModel, *, rounded: int) -> LoadedModel:
        """Return the model with its tokenizer and what goes on record."""
        try:
            with silence_transformers():
                tokenizer = AutoTokenizer.from_pretrained(self.checkpoint.folder, **self.trust)
        except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
            raise ModelError(self._describe_error("its tokenizer", error)) from error
        pad_is_new = _set_padding_token(model, tokenizer)
        origin = {
            "source": self.model.source,
            "path": self.checkpoint.name,
            "note": self.model.note,
            **self.checkpoint.origin,
            "architecture": type(model).__name__,
            "model_type": model.config.model_type,
            "device": self._devices(model),
            "attention": self.attention,
            "held_in": str(model.get_input_embeddings().weight.dtype).removeprefix("torch."),
            "rounded_to_bf16": rounded,  # values that moved
            "new_weights": self.new_weights,
            "pad_token": tokenizer.pad_token,
            "pad_token_was_missing": pad_is_new,
        }
        return LoadedModel(model=model, tokenizer=tokenizer, origin=origin)

    def _devices(self, model: PreTrainedModel) -> str:
        """Return where the weights are, for the record: one device, or all that share them."""
        if self.model.device != SPREAD:
            return str(self.device)
        return ", ".join(sorted({str(weight.device) for weight in model.parameters()}))

    def _describe_error(self, part: str, error: Exception) -> str:
        name, text = self.checkpoint.name, " ".join(str(error).split())
        if "trust_remote_code" in text:
            return (
                f"{name} brings its own Python code; if you trust it, model.trust_remote_code=true"
            )
        return f"{name}: {part} cannot be read ({text[:300]}); a whole checkpoint is needed"


def _uses_bitsandbytes(dtype: DtypeConfig) -> bool:
    """Whether bitsandbytes holds the linear weights."""
    return dtype.backend == "bnb" and dtype.name not in FULL_PRECISION


def _streaming_config(dtype: DtypeConfig, *, dq: bool, storage: torch.dtype) -> Any:
    """Return the `quantization_config` of from_pretrained; None where it quantizes nothing."""
    if not _uses_bitsandbytes(dtype):
        return None
    return StreamingConfig(
        dtype.name,
        blocksize=dtype.blocksize,
        dq=dq,
        compute_dtype=getattr(torch, dtype.compute_dtype),
        storage=storage,
    )


def _set_padding_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give tokenizer and model a padding token, end of sequence where there is none; True if so.

    Raises ModelError for a tokenizer without both and for one with more tokens than the model.
    """
    missing = tokenizer.pad_token_id is None
    if missing and tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has neither a padding nor an end-of-sequence token")
    if missing:
        tokenizer.pad_token = tokenizer.eos_token
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(f"the tokenizer has {len(tokenizer)} tokens and the model only {rows}")
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return missing


@torch.no_grad()
def _round_to_bf16(model: nn.Module, *, skip: set[str]) -> int:
    """Round float32 weights to bf16 values in place, held in float32; return how many moved.

    `skip` names modules whose weight is quantized, and single weights that are; biases are rounded.
    """
    moved = 0
    for name, weight in model.named_parameters():
        if weight.dtype == torch.float32 and not skip & {name, name.removesuffix(".weight")}:
            rounded = weight.to(torch.bfloat16).float()
            moved += int((rounded != weight).sum())
            weight.copy_(rounded)
    return moved


def estimate_weight_bytes(model: nn.Module, names: list[str], *, dtype: DtypeConfig) -> int:
    """Return what the weights of an empty model would take, in bytes.

    `names` are the linear layers that backend=bnb would quantize.
    """
    unquantized = torch.finfo(getattr(torch, dtype.compute_dtype)).bits
    bits = {"int8": 8.0}.get(dtype.name, 4 + 32 / dtype.blocksize)  # codes, a float32 scale a block
    quantized = {f"{name}.weight" for name in names} if dtype.backend == "bnb" else set()
    return int(
        sum(
            weight.numel() * (bits if name in quantized else unquantized)
            for name, weight in model.named_parameters()
        )
        / 8
    )
