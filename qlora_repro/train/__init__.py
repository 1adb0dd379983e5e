"""Training: one `transformers.Trainer`, its loss, callbacks, checkpoints and memory.

`trainer.train_model` is the place to start. It knows nothing of runs or of the store: what is
trained when, and what is kept of it, is decided in `stages.train`. Rows and collators are in
`data`, LoRA layers in `lora`, and what a run will take in memory is predicted in `memory`.
"""
