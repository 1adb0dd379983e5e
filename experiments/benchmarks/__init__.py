"""Commands that measure a machine: speed as ratios to a named baseline, memory beside its plan."""
