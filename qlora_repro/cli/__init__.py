"""The command: python run.py.

`main` reads the command line, checks each cell that Hydra composes and reports errors in one
sentence. `processes` is what the command does where torchrun started several of it. What a cell
does is in `pipeline.py`, what came of a sweep's cells in `sweep/`. Start with `main.run_command`.
"""
