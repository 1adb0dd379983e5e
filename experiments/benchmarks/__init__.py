"""Benchmarks: each prints what it measured, as ratios to a named baseline."""
