"""Exported programs (.pt2 files of torch.export.save) read as plain data, without torch and without pickle.

A .pt2 file is a zip archive of JSON and raw tensors. `torch.export.load` evaluates texts of the file, unpickles and
makes custom objects, so it is never called: what is read here is bounded, strict, and compared with the bytes.
"""

from gradinspect.intake.exported.check import ExportedFacts, check_exported, is_exported, read_program

__all__ = ["ExportedFacts", "check_exported", "is_exported", "read_program"]
