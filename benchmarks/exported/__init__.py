"""Architectures of torchvision, timm and transformers as exported programs: `python -m benchmarks.exported`."""
