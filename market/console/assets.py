"""Scripts and styles, read from the package once and served under their own hash."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from fastapi import Response

from market.console.errors import PageNotFound
from market.kernel.security import sha256_hex

PREFIX: Final = "/console/static"
# The address changes with the content, so a browser may keep it for ever.
_CACHE: Final = "public, max-age=31536000, immutable"
_TYPES: Final = {
    "htmx.min.js": "text/javascript; charset=utf-8",
    "htmx.LICENSE.txt": "text/plain; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file; ``url`` holds the beginning of its SHA-256."""

    body: bytes
    media_type: str
    url: str


def _load(name: str) -> Asset:
    body = files("market.console").joinpath("static", name).read_bytes()
    return Asset(body, _TYPES[name], f"{PREFIX}/{sha256_hex(body)[:16]}/{name}")


ASSETS: Final = {name: _load(name) for name in _TYPES}


def asset_url(name: str) -> str:
    """The address of a file. Raises KeyError for an unknown one."""
    return ASSETS[name].url


def serve(path: str) -> Response:
    """The file at ``path`` below PREFIX. Raises PageNotFound, also for an outdated hash."""
    for asset in ASSETS.values():
        if asset.url == f"{PREFIX}/{path}":
            return Response(
                asset.body, media_type=asset.media_type, headers={"Cache-Control": _CACHE}
            )
    raise PageNotFound
