"""Where the picture of a Label Studio task is: a file below a folder, or with Label Studio itself and nowhere else."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from clip_es.decode import PICTURES
from clip_es.errors import ClipEsError, ConfigError, DataError
from clip_es.records.elsewhere import tails, uploaded_name
from clip_es.records.picture_files import Uploads

LARGEST_PICTURE = 2**28
"""Bytes of a picture that is fetched."""

_ACCESS = 200.0
"""Seconds for which a token of access is used; it lives for five minutes."""


class Pictures:
    """From the address of a picture to its file or its bytes."""

    def __init__(self, images: Path | None = None, host: str | None = None, token: str | None = None) -> None:
        """`images`: the folder the pictures lie in; `host` and `token`: of the Label Studio that has the others.

        Raises ConfigError: the host is no address.
        """
        self._images = None if images is None else images.resolve()
        self._label_studio = None if host is None else LabelStudio(host, token)
        self._uploads = None if self._images is None else Uploads(self._images)

    def __call__(self, address: str) -> Path | bytes:
        """A file below the folder, or what Label Studio has. Raises DataError: neither.

        What was uploaded is asked of Label Studio first: of it no path is known, only a name that others may have too.
        """
        if self._label_studio is not None and uploaded_name(address):
            return self._label_studio.fetch(address)
        if self._images is not None and (path := self._below(self._images, address)) is not None:
            return path
        if self._label_studio is None:
            raise DataError(
                f"the picture {address[:100]!r} is not below the folder of the pictures",
                where=self._images,
                next_step="Pass --images, or --label-studio with the address it runs at.",
            )
        return self._label_studio.fetch(address)

    def _below(self, images: Path, address: str) -> Path | None:
        if self._uploads and (found := self._uploads.find(address)):
            return images / found
        paths = (images / tail for tail in tails(address))
        return next((path for path in paths if path.suffix.lower() in PICTURES and path.is_file()), None)


class LabelStudio:
    """A Label Studio that gives the pictures of its tasks."""

    def __init__(self, host: str, token: str | None) -> None:
        """`token`: a personal access token, or a legacy one. Raises ConfigError: the host is no address."""
        try:
            parts = urlsplit(host)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            known = False
        if not known:
            raise ConfigError("is not where Label Studio runs", found=host[:100], expected="http://localhost:8080")
        self._host, self._token = host, token
        self._access, self._until = "", 0.0
        self._open = build_opener(_NotElsewhere(host)).open

    def fetch(self, address: str) -> bytes:
        """A picture. Raises DataError: of somebody else, refused, not answered, or too large."""
        try:
            where = urljoin(self._host, address)
        except ValueError:
            where = ""
        if not _same(where, self._host):
            raise DataError("the picture lies with somebody else", where=address[:100], expected=self._host)
        try:
            content = self._read(Request(where, headers=self._head()))
        except (OSError, ValueError, ClipEsError) as error:
            refused = isinstance(error, HTTPError) and error.code in (401, 403)
            raise DataError(
                "Label Studio does not give the picture",
                where=address[:100],
                found=error,
                next_step="Set LABEL_STUDIO_API_KEY to a token of an account that sees the project."
                if refused or not self._token
                else f"Is it running at {self._host}, and does the task still have its picture?",
            ) from error
        if len(content) > LARGEST_PICTURE:
            raise DataError("the picture is too large", where=address[:100])
        return content

    def _head(self) -> dict[str, str]:
        """A personal access token is a JSON web token, which is exchanged for one of access; a legacy one is not."""
        if not self._token:
            return {}
        if self._token.count(".") != 2:
            return {"Authorization": f"Token {self._token}"}
        if time.monotonic() >= self._until:
            asked = Request(
                urljoin(self._host, "/api/token/refresh"),
                data=json.dumps({"refresh": self._token}).encode(),
                headers={"Content-Type": "application/json"},
            )
            told: Any = json.loads(self._read(asked))
            access = told.get("access") if isinstance(told, dict) else None
            if not isinstance(access, str) or not access.isascii() or not access.isprintable():
                raise DataError("Label Studio gives no access for the token")
            self._access, self._until = access, time.monotonic() + _ACCESS
        return {"Authorization": f"Bearer {self._access}"}

    def _read(self, request: Request) -> bytes:
        with self._open(request, timeout=60) as answer:
            return answer.read(LARGEST_PICTURE + 1)


class _NotElsewhere(HTTPRedirectHandler):
    """Redirects are followed within a host alone: the token is for no other, and nobody else is asked in its name."""

    def __init__(self, host: str) -> None:
        self._host = host

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not _same(newurl, self._host):
            raise DataError(
                "Label Studio sends the picture's reader to somebody else",
                found=urlsplit(newurl).netloc[:100],
                expected=self._host,
                next_step="Switch off pre-signed URLs in the settings of its storage, or pass --images.",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _same(address: str, host: str) -> bool:
    """Whether an address is of a host: scheme, name and port."""
    try:
        one, other = urlsplit(address), urlsplit(host)
        return (one.scheme, one.hostname, _port(one)) == (other.scheme, other.hostname, _port(other))
    except ValueError:
        return False


def _port(parts: Any) -> int | None:
    return parts.port or {"http": 80, "https": 443}.get(parts.scheme)
