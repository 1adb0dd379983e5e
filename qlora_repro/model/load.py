"""A base model and its tokenizer, at the precision that was asked for and checked to be."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import __version__ as transformers_version

from qlora_repro.config.schema import FULL_PRECISION, DtypeConfig, ModelConfig
from qlora_repro.config.validate import SPREAD
from qlora_repro.errors import ConfigError, LackOfMemory, ModelError
from qlora_repro.model.attention import set_attention
from qlora_repro.model.checkpoint import Checkpoint, find, folder_checkpoint
from qlora_repro.model.device import (
    free_by_card,
    hand_over_early,
    resolve_device,
    spread_map,
)
from qlora_repro.model.library_logging import quiet
from qlora_repro.model.precision import check_quantized, lacks_memory, round_to_bf16, weight_bytes
from qlora_repro.quant.bitsandbytes import disarm, place_shells, quantization_config
from qlora_repro.quant.fake_quant import simulate, simulate_experts
from qlora_repro.quant.linear_layers import expert_weights, quantizable

KINDS: dict[str, Any] = {
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "classification": AutoModelForSequenceClassification,
}


@dataclass(frozen=True, kw_only=True)
class Loaded:
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
    on_disk: Path | None = None,
    storage: torch.dtype = torch.uint8,
) -> Loaded:
    """Return the untuned model at the precision that `dtype` and `dq` ask for.

    Linear weights are quantized from what the checkpoint holds, cast to `dtype.compute_dtype`. What
    is not quantized is 16-bit, as in the paper: in compute_dtype, and where that is float32 (faster
    on a CPU) each value is rounded to bf16 first and held in float32; dtype=fp32 rounds nothing.
    `seed` draws a classification head that the checkpoint lacks. `on_disk` is a folder that stands
    in for the checkpoint. bitsandbytes' 4-bit codes are viewed as `storage`, the same bytes.

    Raises ConfigError for a section that cannot be, ModelError for a checkpoint that cannot be
    used and for a live model that is not what was asked for.
    """
    if dtype.name == "fp32" and dtype.compute_dtype != "float32":
        raise ConfigError(
            f"dtype=fp32 computes in float32, and dtype.compute_dtype is {dtype.compute_dtype}"
        )
    reader = _reader(model, on_disk)
    live = reader.read(dtype, dq=dq, seed=seed, storage=storage)
    names = [] if dtype.name in FULL_PRECISION else reader.expected()
    experts = expert_weights(live) if names else []
    if dtype.backend == "simulated" and names:
        size, scales = dtype.blocksize, dtype.scales
        simulate(live, names, dtype=dtype.name, blocksize=size, dq=dq, scales=scales)
        simulate_experts(live, experts, dtype=dtype.name, blocksize=size, dq=dq, scales=scales)
    disarm(live)
    check_quantized(live, names, dtype=dtype, dq=dq)
    rounded = 0 if dtype.name == "fp32" else round_to_bf16(live, skip=[*names, *experts])
    return reader.loaded(live, rounded=rounded)


def load_empty(
    model: ModelConfig, dtype: DtypeConfig, *, dq: bool, storage: torch.dtype = torch.uint8
) -> Loaded:
    """Return what `load_base` would, without its weights: they come from another process.

    Nothing is read but the configuration and the tokenizer; weights are on the meta device.
    """
    reader = _reader(model, None)
    return reader.loaded(reader.shells(dtype, dq=dq, storage=storage), rounded=0)


def load_trained(model: ModelConfig, dtype: DtypeConfig, *, folder: Path) -> Loaded:
    """Return a model whose every weight was trained, as it was published: float32, nothing rounded.

    Raises ConfigError for a quantized `dtype`, ModelError as load_base does.
    """
    if dtype.name not in FULL_PRECISION:
        raise ConfigError(f"dtype={dtype.name} has no fully trained model; use dtype=bf16 or fp32")
    reader = _reader(model, folder)
    plain = replace(dtype, name="fp32", compute_dtype="float32", backend="none")
    return reader.loaded(reader.read(plain, dq=False, seed=0), rounded=0)


def _reader(model: ModelConfig, folder: Path | None) -> "_Reader":
    device = resolve_device(model.device)
    if model.kind not in KINDS:
        raise ConfigError(f"model.kind is {model.kind!r}, and must be {', '.join(KINDS)}")
    if model.kind == "classification" and not model.num_labels:
        raise ConfigError(f"model.num_labels is {model.num_labels}, and must be at least 1")
    return _Reader(model, find(model) if folder is None else folder_checkpoint(folder), device)


class _Reader:
    """Reads one checkpoint: its configuration, its weights, its tokenizer."""

    def __init__(self, model: ModelConfig, checkpoint: Checkpoint, device: torch.device) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.device = device
        self.code = {"trust_remote_code": model.trust_remote_code}
        self.attention = ""  # as the live model computes it
        self.new: list[str] = []  # weights that the checkpoint lacks
        labels = {"num_labels": model.num_labels} if model.kind == "classification" else {}
        try:
            with quiet():
                self.config = AutoConfig.from_pretrained(checkpoint.folder, **self.code, **labels)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(self._why("its configuration", error)) from error
        self._refuse_other_kind()

    def _refuse_other_kind(self) -> None:
        config, kind = self.config, self.model.kind
        fitting = [k for k, auto in KINDS.items() if type(config) in auto._model_mapping]
        masked = "MaskedLM" in str(getattr(config, "architectures", None))
        if masked and "causal" in fitting:
            fitting.remove("causal")  # it would load, and see the tokens it is to predict
        if kind not in fitting and not getattr(config, "auto_map", None):
            raise ModelError(
                f"{self.checkpoint.name} holds a {config.model_type} model, and model.kind={kind} "
                f"does not fit it; {' or '.join(fitting) or 'no kind of model here'} would"
            )

    def read(
        self, dtype: DtypeConfig, *, dq: bool, seed: int, storage: torch.dtype = torch.uint8
    ) -> PreTrainedModel:
        """Return the model; for backend=bnb each weight is quantized as it is read."""
        compute = getattr(torch, dtype.compute_dtype)
        quantized = _quantization(dtype, dq=dq, storage=storage)
        if quantized is not None:
            # LLM.int8() computes in float16 and says so once a layer, in each pass
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        gpus = range(torch.cuda.device_count())
        try:
            with quiet(), torch.random.fork_rng(devices=gpus):
                torch.manual_seed(seed)
                live: PreTrainedModel
                live, report = KINDS[self.model.kind].from_pretrained(
                    self.checkpoint.folder,
                    config=self.config,
                    dtype=compute,
                    device_map=self._device_map(dtype),
                    quantization_config=quantized,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # _refuse_random words it better
                    **self.code,
                )
        except (OSError, ValueError, RuntimeError, KeyError, MemoryError, SafetensorError) as error:
            if lacks_memory(error):
                raise LackOfMemory(self._too_large(dtype)) from error
            raise ModelError(self._why("its weights", error)) from error
        self.new = sorted(report["missing_keys"] | {n for n, *_ in report["mismatched_keys"]})
        self._refuse_random(f"{live.base_model_prefix}.")
        if quantized is not None:
            self._refuse_other_shapes(live)
        # Adapters name their base by hub id and commit, not by a folder in the hub's cache.
        live.name_or_path = live.config._name_or_path = self.checkpoint.name
        live.config._commit_hash = self.checkpoint.commit
        live.eval()
        if self.model.device == SPREAD:
            hand_over_early(live)
        self.attention = set_attention(live, self.model.attention)
        return live

    def shells(self, dtype: DtypeConfig, *, dq: bool, storage: torch.dtype) -> PreTrainedModel:
        """Return the model as `read` does, on the meta device."""
        empty: PreTrainedModel = self._empty(getattr(torch, dtype.compute_dtype))
        quantized = _quantization(dtype, dq=dq, storage=storage)
        if quantized is not None:
            place_shells(empty, quantized)
        empty.requires_grad_(False)
        empty.eval()
        self.attention = set_attention(empty, self.model.attention)
        return empty

    def _device_map(self, dtype: DtypeConfig) -> dict[str, Any]:
        """Return which module goes where: all to one device, or spread over the cards here."""
        if self.model.device != SPREAD:
            return {"": str(self.device)}
        empty = self._empty(getattr(torch, dtype.compute_dtype))
        return spread_map(
            empty,
            free_by_card(),
            name=self.checkpoint.name,
            quantized=quantizable(empty) if _packed(dtype) else [],
            dtype=dtype.name,
        )

    def _refuse_random(self, base: str) -> None:
        """Refuse weights that the checkpoint lacks, which are random, but for a new head."""
        head_is_new = self.model.kind == "classification"
        bad = [name for name in self.new if name.startswith(base) or not head_is_new]
        if bad:
            raise ModelError(
                f"{self.checkpoint.name} lacks {len(bad)} of the weights that config.json calls "
                f"for, {bad[0]} among them, or has them in another shape; they would be random: "
                "a whole checkpoint is needed"
            )

    def _refuse_other_shapes(self, live: PreTrainedModel) -> None:
        """Refuse a 16-bit weight as the checkpoint has it where config.json has another shape.

        While it quantizes, transformers before 5.23 loads such a weight and does not report it.
        """
        empty = self._empty()
        quantized = {f"{name}.weight" for name in quantizable(empty)}
        shapes = {name: weight.shape for name, weight in empty.named_parameters()}
        for name, weight in live.named_parameters():
            if name not in quantized and weight.shape != shapes[name]:
                raise ModelError(
                    f"{self.checkpoint.name} has {name} as {tuple(weight.shape)}, and a model with "
                    f"these settings as {tuple(shapes[name])}; transformers {transformers_version} "
                    "cannot replace it in a quantized model, 5.23 or newer can"
                )

    def _empty(self, dtype: torch.dtype | None = None) -> Any:
        """Return the architecture alone, without weights; in the checkpoint's dtype unless told."""
        with quiet(), torch.device("meta"):
            return KINDS[self.model.kind].from_config(
                self.config, **({"dtype": dtype} if dtype else {}), **self.code
            )

    def expected(self) -> list[str]:
        """Return the layers to quantize from the architecture alone: what the live ones must be."""
        return quantizable(self._empty())

    def _too_large(self, dtype: DtypeConfig) -> str:
        empty = self._empty()
        size = weight_bytes(empty, quantizable(empty), dtype=dtype)
        return (
            f"out of memory: the weights of {self.checkpoint.name} take about {size / 1e9:.2f} GB "
            f"as dtype={dtype.name}; choose a smaller model, dtype=nf4 with dtype.backend=bnb, or "
            "dtype.compute_dtype=bfloat16"
        )

    def loaded(self, live: PreTrainedModel, *, rounded: int) -> Loaded:
        """Return the model with its tokenizer and what goes on record."""
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(self.checkpoint.folder, **self.code)
        except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
            raise ModelError(self._why("its tokenizer", error)) from error
        pad_is_new = set_pad(live, tokenizer)
        origin = {
            "source": self.model.source,
            "path": self.checkpoint.name,
            "note": self.model.note,
            **self.checkpoint.origin,
            "architecture": type(live).__name__,
            "model_type": live.config.model_type,
            "device": self._devices(live),
            "attention": self.attention,
            "held_in": str(live.get_input_embeddings().weight.dtype).removeprefix("torch."),
            "rounded_to_bf16": rounded,  # values that moved
            "new_weights": self.new,
            "pad_token": tokenizer.pad_token,
            "pad_token_was_missing": pad_is_new,
        }
        return Loaded(model=live, tokenizer=tokenizer, origin=origin)

    def _devices(self, live: PreTrainedModel) -> str:
        """Return where the weights are, for the record: one device, or all that share them."""
        if self.model.device != SPREAD:
            return str(self.device)
        return ", ".join(sorted({str(weight.device) for weight in live.parameters()}))

    def _why(self, part: str, error: Exception) -> str:
        name, text = self.checkpoint.name, " ".join(str(error).split())
        if "trust_remote_code" in text:
            return (
                f"{name} brings its own Python code; if you trust it, model.trust_remote_code=true"
            )
        return f"{name}: {part} cannot be read ({text[:300]}); a whole checkpoint is needed"


def _packed(dtype: DtypeConfig) -> bool:
    """Whether bitsandbytes holds the linear weights."""
    return dtype.backend == "bnb" and dtype.name not in FULL_PRECISION


def _quantization(
    dtype: DtypeConfig, *, dq: bool, storage: torch.dtype
) -> BitsAndBytesConfig | None:
    if not _packed(dtype):
        return None
    return quantization_config(
        dtype.name,
        blocksize=dtype.blocksize,
        dq=dq,
        compute_dtype=getattr(torch, dtype.compute_dtype),
        storage=storage,
    )


def set_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
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
