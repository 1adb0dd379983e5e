"""What the user sees of results: the table of a run, the tables of a sweep.

`stored_result` reads a cell's result from the store, `run_table` shows one, `sweep_table` many.
Nothing here imports torch, and scipy only where something is still to be tested. The paper's tables
and figures are in `analysis/`.
"""
