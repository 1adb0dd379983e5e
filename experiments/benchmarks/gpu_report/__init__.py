"""What a GPU proves in eight minutes: memory, speed, paging and noise, beside what was predicted.

`__main__` is the command: it starts parts in order of worth, ends those that take too long, and
rewrites report.json after each. `worker` runs parts in a process of its own. `parts` holds what
each of them does, `arms` how a model is trained and timed, `random_llama` the models: LLaMA's
shapes with random weights, as there is no network where this runs. `python -m analysis gpu` shows
the report.
"""
