"""Quantization: data types, blocks of weights, and layers that hold them.

Start with `codebooks` (what a code means) and `blockwise` (codes and constants of a weight).
`fake_quant` round-trips a model's weights through any type, `bitsandbytes` puts that library's
layers into a model, `linear_layers` says which layers are quantized, and `storage` reads off a live
model what it holds. `error` measures what a type loses; doing so for a whole model is
`qlora_repro.weights`.
"""
