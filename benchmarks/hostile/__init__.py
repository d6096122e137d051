"""What hostile callers cost: the largest and most wrong bodies, and thousands of slow clients."""
