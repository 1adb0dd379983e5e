"""The audit of a judge: how far the order in which answers are shown, and other biases, reach."""
