"""Style sheet, script and icon: read once, served under a name that changes with their content."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """One file and the digest in its URL."""

    body: bytes
    digest: str
    media_type: str


@lru_cache(maxsize=1)
def _assets() -> dict[str, Asset]:
    found = {}
    for path in sorted(_FOLDER.iterdir()):
        if path.suffix in _TYPES:
            body = path.read_bytes()
            found[path.name] = Asset(body, sha256(body).hexdigest()[:16], _TYPES[path.suffix])
    return found


def asset_url(name: str) -> str:
    """Where a page finds an asset of this very version."""
    return f"/assets/{_assets()[name].digest}/{name}"


def asset_response(digest: str, name: str) -> Response:
    """An asset, to be kept for ever; a digest from another version gets the present file, kept for no time.

    Raises:
        NotFound: there is no such asset.
    """
    asset = _assets().get(name)
    if asset is None:
        raise NotFound
    caching = FOREVER if digest == asset.digest else "no-cache"
    return Response(asset.body, mimetype=asset.media_type, headers={"Cache-Control": caching})
