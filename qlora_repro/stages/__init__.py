"""The stages of a cell, a file each, all of one shape; `pipeline.STAGES` lists them.

For a stage X, `check_X` refuses what cannot work before anything slow begins, `run_X` does the work
unless the store has its results, and `work_X` is what workers do where processes compute together.
What a stage is made of (trainer, evaluation, judge, planner) is in the packages below. Start with
`train`.
"""
