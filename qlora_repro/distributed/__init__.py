"""Several processes, one run: torchrun starts them, rank 0 coordinates and the workers follow.

`environment` says which process this is, `process_group` is how they meet and share work and
failures, `fsdp` divides a frozen base among them. What a worker does in a stage is in that stage's
module; its loop is in `cli/processes.py`. Start with `process_group`.
"""
