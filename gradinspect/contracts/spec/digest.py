"""The digest by which equal specs are recognised."""

from __future__ import annotations

import hashlib
import json

from gradinspect.contracts.spec.model_spec import ModelSpec


def spec_digest(spec: ModelSpec) -> str:
    """Return the SHA-256 of a spec's canonical JSON, as `sha256:…`."""
    document = spec.model_dump(mode="json", exclude_none=True)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"
