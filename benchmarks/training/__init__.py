"""What watching costs a training run: `python -m benchmarks.training`."""
