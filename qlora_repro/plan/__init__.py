"""What a run would take, predicted from the architecture alone: no weights, no GPU, seconds."""
