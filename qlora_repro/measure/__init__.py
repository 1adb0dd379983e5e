"""What the base weights are like: how normal, and what each data type makes of them."""
