"""The paper's seven findings as hypotheses, tested on its own numbers and on the store's runs."""
