"""What quantization loses on a model's weights, and whether these are normally distributed.

`errors` measures data types on synthetic and on real weights (start here), `normality` tests rows
of weights (Appendix F of the paper). How a type quantizes is in `qlora_repro.quant`; writing the
records is the stage's, `qlora_repro.stages.measure`.
"""
