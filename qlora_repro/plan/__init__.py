"""Memory before a run: what it would take, from the architecture alone."""
