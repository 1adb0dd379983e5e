"""Low-rank adapters: which layers get one, putting them there, and computing with them.

Start with `targets` (which layer plays which role; without torch), then `adapter` (LoRA on a model)
and `fused` (base product and update in one function of autograd).
"""
