"""Tables whose cells are scores of runs: which run is of which cell, and what its score says."""
