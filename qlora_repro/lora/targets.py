"""What each linear layer does in its block, by the names that the families give their modules.

Roles are q, k, v, o in attention (qkv where one layer computes all three) and gate, up, down in the
feed-forward part. Layers with no role, such as the projections around OPT 350M's embeddings, are
`other`, and belong to the target `all` alone.
"""

import re

# The placements of the paper (Figure 2, Appendix A.1) and the classic query and value.
TARGETS: dict[str, tuple[str, ...]] = {
    "none": (),  # full fine-tuning
    "qv": ("q", "v"),
    "kq": ("k", "q"),
    "attention": ("q", "k", "v", "qkv", "o"),
    "ffn": ("gate", "up", "down"),
    "all": ("q", "k", "v", "qkv", "o", "gate", "up", "down", "other"),
}

_LLAMA = {
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}
_BERT = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "o",
    "intermediate.dense": "up",
    "output.dense": "down",  # the longest ending counts, so attention.output.dense is o
}
# model type -> ending of a module's name -> role
ROLES: dict[str, dict[str, str]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gpt_neox": {
        "attention.query_key_value": "qkv",
        "attention.dense": "o",
        "mlp.dense_h_to_4h": "up",
        "mlp.dense_4h_to_h": "down",
    },
    "opt": {
        "self_attn.q_proj": "q",
        "self_attn.k_proj": "k",
        "self_attn.v_proj": "v",
        "self_attn.out_proj": "o",
        "fc1": "up",
        "fc2": "down",
    },
    "bloom": {
        "self_attention.query_key_value": "qkv",
        "self_attention.dense": "o",
        "mlp.dense_h_to_4h": "up",
        "mlp.dense_4h_to_h": "down",
    },
    "gpt2": {"attn.c_attn": "qkv", "attn.c_proj": "o", "mlp.c_fc": "up", "mlp.c_proj": "down"},
    "bert": _BERT,
    "roberta": _BERT,
    "t5": {
        **{f"{a}.{name}": name for a in ("SelfAttention", "EncDecAttention") for name in "qkvo"},
        "DenseReluDense.wi_0": "gate",  # T5 1.1: gelu(wi_0 x) * wi_1 x
        "DenseReluDense.wi_1": "up",
        "DenseReluDense.wi": "up",
        "DenseReluDense.wo": "down",
    },
}


def role_of(model_type: str, name: str) -> str | None:
    """Return the role of the layer with this module name, None when the family gives it none.

    >>> role_of("llama", "model.layers.0.self_attn.q_proj")
    'q'
    >>> role_of("bert", "bert.encoder.layer.0.attention.output.dense")
    'o'
    """
    endings = ROLES.get(model_type, {})
    matching = [ending for ending in endings if f".{name}".endswith(f".{ending}")]
    return endings[max(matching, key=len)] if matching else None


def layer_number(name: str) -> int | None:
    """Return the number of the layer a module is in: the first number in its name.

    >>> layer_number("encoder.block.3.layer.0.SelfAttention.q"), layer_number("bert.pooler.dense")
    (3, None)
    """
    match = re.search(r"\.(\d+)\.", name)
    return int(match[1]) if match else None
