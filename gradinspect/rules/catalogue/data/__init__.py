"""Rules about the batch, and about whether output, targets and loss fit together."""
