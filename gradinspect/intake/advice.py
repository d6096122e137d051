"""What a file is that is no model, and what its sender should do instead."""

from __future__ import annotations

SNIFFED_BYTES = 512


def advice(head: bytes) -> str | None:
    """Say what a file is instead of an archive, and what to do; None where it may be one."""
    if head.startswith(b"PK"):
        return None
    if not head:
        return "the file is empty"
    if head[:1] == b"\x80" or head.startswith(b"(dp"):
        return (
            "the file is a pickle (an old torch.save), which can run any code when it is loaded; upload "
            "torch.export.export(model, inputs) saved with torch.export.save (.pt2), or a spec with its weights as "
            "safetensors"
        )
    if head[8:9] == b"{":
        return (
            "the file looks like safetensors, which holds tensors and no model; register a spec and give it as weights"
        )
    if head.startswith(b"\x89HDF"):
        return "the file is HDF5 (Keras); only PyTorch models can be inspected: upload a .pt2 file or send a spec"
    if head.lstrip()[:1] in (b"{", b"<"):
        return (
            "the file is text; upload the file that torch.export.save or torch.jit.save wrote, or send a spec as JSON"
        )
    if b"pytorch" in head[:64] or b"onnx" in head:
        return (
            "the file looks like ONNX, which holds no gradients; export the PyTorch model with torch.export.save (.pt2)"
        )
    return (
        "the file is no zip archive, which is what torch.export.save and torch.jit.save write; ONNX and other formats "
        "are not taken"
    )
