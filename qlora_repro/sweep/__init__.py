"""Many cells: what came of each, workers that die, a search instead of a grid, and repeating a run.

`run_cell` runs one cell or reads it from the store, `cells` keeps what came of each cell of a sweep
and shows the tables at its end, `workers` is for sweeps in several processes, `optuna_search` and
`replay` for searches and repetitions. What a cell does is in `pipeline.py`. Start with
`run_cell.run_cell`.
"""
