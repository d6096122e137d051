"""Is this upload safe to look at? Pure Python over bytes: nothing here unpickles, imports torch or runs what it reads.

These checks give good errors early; the confined process that loads the file is the boundary. Memory and time are
bounded by the limits that each module states, whatever the file says of itself.
"""

from gradinspect.intake.exported import ExportedFacts, check_exported
from gradinspect.intake.recognise import check_upload, recognise
from gradinspect.intake.safetensors import SafetensorsFacts, TensorFacts, check_safetensors
from gradinspect.intake.torchscript import TorchScriptFacts, check_torchscript

__all__ = [
    "ExportedFacts",
    "SafetensorsFacts",
    "TensorFacts",
    "TorchScriptFacts",
    "check_exported",
    "check_safetensors",
    "check_torchscript",
    "check_upload",
    "recognise",
]
