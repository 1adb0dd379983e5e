"""Scoring a model: lm-eval's tasks, perplexity on a text, and rows held out of training.

Start with `evaluate.evaluate_model`, which does all that the eval section asks for. `lm_eval`
finds, loads and runs tasks, `language_models` wraps a model for them, `procedural_tasks` are the
embedded ones, and `metrics` turns samples into records. `perplexity` and `held_out` score without
lm-eval. Comparisons of runs and their intervals are in `stats`; chat answers are judged in `judge`.
"""
