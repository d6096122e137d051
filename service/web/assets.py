"""Style sheets, script and icon: read once, served at addresses that change with their content."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from gradinspect.report.html.render import style_sheet

_FOLDER = Path(__file__).parent / "static"
_REPORT_STYLE = "report.css"  # of the library: a report looks the same on a page and in a file
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
    bodies = {path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}
    bodies[_REPORT_STYLE] = style_sheet().encode()
    return {
        name: Asset(body, sha256(body).hexdigest()[:16], _TYPES[Path(name).suffix]) for name, body in bodies.items()
    }


def asset_url(name: str) -> str:
    """Return the address of the current version of an asset."""
    return f"/assets/{_assets()[name].digest}/{name}"


def asset_response(digest: str, name: str) -> Response:
    """Return an asset, cached for ever; an address of another version gets the current file, without caching.

    Raises:
        NotFound: no asset has that name.
    """
    asset = _assets().get(name)
    if asset is None:
        raise NotFound
    caching = FOREVER if digest == asset.digest else "no-cache"
    return Response(asset.body, mimetype=asset.media_type, headers={"Cache-Control": caching})
