"""gzip for text answers, for callers that accept it.

BREACH needs a secret in the same body as text chosen by the attacker. No response of this service contains a secret, so
compression is safe for all. Server-sent events are streamed and not compressed.
"""

from __future__ import annotations

import gzip

from flask import request
from werkzeug.wrappers import Response

FEWEST_BYTES = 1024  # chosen: below this, headers outweigh the savings
LEVEL = 5  # chosen: nearly as small as level 9 in a third of the time
_TEXT = ("text/", "application/json", "application/problem+json", "application/vnd.gradinspect", "image/svg+xml")


def compress(response: Response) -> Response:
    """Compress a complete text answer of more than 1 KB when the caller accepts gzip.

    The ETag becomes weak: it names the content in any encoding, and If-None-Match compares weakly. Vary is set on the
    answers that are not compressed too, and on 304, so that caches keep the encodings apart.
    """
    if response.status_code == 304:
        response.vary.add("Accept-Encoding")
        return response
    if not _is_compressible(response):
        return response
    response.vary.add("Accept-Encoding")
    if request.accept_encodings.quality("gzip") > 0:
        response.set_data(gzip.compress(response.get_data(), LEVEL, mtime=0))
        response.headers["Content-Encoding"] = "gzip"
        etag, _ = response.get_etag()
        if etag is not None:
            response.set_etag(etag, weak=True)
    return response


def _is_compressible(response: Response) -> bool:
    is_text = (response.mimetype or "").startswith(_TEXT) and response.mimetype != "text/event-stream"
    if not is_text or response.is_streamed or response.direct_passthrough or "Content-Encoding" in response.headers:
        return False
    return (response.calculate_content_length() or 0) > FEWEST_BYTES
