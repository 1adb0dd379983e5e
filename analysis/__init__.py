"""Tables and figures: pure functions of the store, rebuilt offline and without a GPU stack."""
