"""A link becomes a file: that of the link itself, or the video of a page that yt-dlp knows."""

from __future__ import annotations

from pathlib import Path

from vemoclap_batch.app.guard import Bounds, Guard, fetch
from vemoclap_batch.app.sites import fetch_from_site, is_available
from vemoclap_batch.errors import ErrorType
from vemoclap_batch.media.clip import MediaError

#: What a server calls a page, not a video.
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_NO_SITES = (
    "the link leads to a web page, not to a video file; with yt-dlp, which is not installed here, the videos of many "
    "sites can be fetched"
)


class Fetcher:
    """Fetches what links lead to, through one guard."""

    def __init__(self, guard: Guard, bounds: Bounds) -> None:
        self._guard, self._bounds = guard, bounds

    def fetch(self, url: str, to: Path) -> str:
        """Fetch the video of a link.

        Returns:
            Its title, where a site says one; else nothing.

        Raises:
            MediaError: it cannot or may not be fetched, or is none.
        """
        answer = fetch(url, to, self._guard, self._bounds)
        if answer.content_type not in _PAGES:
            return ""
        to.unlink()
        if not is_available():
            raise MediaError(ErrorType.WEB_PAGE, _NO_SITES)
        return fetch_from_site(url, to, self._guard, self._bounds)
