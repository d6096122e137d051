"""The learning-rate suggestion as Python; made beside the contracts, for the engine fills `LrScales.code` with it."""

from gradinspect.contracts.report.optimizer_code import optimizer_code, scaled_groups

__all__ = ["optimizer_code", "scaled_groups"]
