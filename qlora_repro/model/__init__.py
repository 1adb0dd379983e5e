"""From a name in conf/model to a live model and its tokenizer.

Start with `load` (`load_base`); `checkpoint` finds the folder that it reads, `hub`, `embedded` and
`tiny` are where that comes from, and `device` decides where the model goes. `attention` is a faster
way to attend on a CPU; `library_logging` and `state_guard` leave the terminal and a model as they
were. Quantized weights are in `qlora_repro.quant`, adapters in `qlora_repro.lora`.
"""
