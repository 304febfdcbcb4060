"""OpenAI's published weights by name: fetched once into a cache folder, resumed where it broke off, hash checked.

A download grows in `<file>.part` and gets its name only when its SHA-256 is the published one, so a file in the cache
is either whole or absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clip_es.errors import WeightsError

if TYPE_CHECKING:
    from rich.progress import Progress

_CHUNK = 2**20
_TIMEOUT = 30.0
"""Seconds without a byte after which the connection counts as lost."""


@dataclass(frozen=True)
class Published:
    """A file on a public server, and what it must hash to."""

    url: str
    sha256: str

    @property
    def file_name(self) -> str:
        return self.url.rpartition("/")[2]


def _openai(sha256: str, file_name: str) -> Published:
    return Published(f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file_name}", sha256)


OFFICIAL = {
    "ViT-B/32": _openai("40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", "ViT-B-32.pt"),
    "ViT-B/16": _openai("5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", "ViT-B-16.pt"),
    "ViT-L/14": _openai("b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", "ViT-L-14.pt"),
    "ViT-L/14@336px": _openai("3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02", "ViT-L-14-336px.pt"),
}
"""Source: the table `_MODELS` of OpenAI's `clip/clip.py`; a test compares the two."""


def cache_folder() -> Path:
    """$CLIP_ES_CACHE, or `clip-es` in the user's cache folder of this platform."""
    if own := os.environ.get("CLIP_ES_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "clip-es"


def download(name: str, folder: Path | None = None) -> Path:
    """The official file of that name, whole and verified; fetched if it is not in the cache folder yet.

    Raises WeightsError: no connection, a wrong hash, or a cache folder that cannot be written. The message says which
    file, from where, and where to put it.
    """
    published = OFFICIAL[name]
    target = (folder or cache_folder()) / published.file_name
    by_hand = f"Or fetch {published.url} elsewhere and put it at {target} (SHA-256 {published.sha256})."
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            if not target.exists():
                _fetch(name, published, target, by_hand)
            found = _sha256(target)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise WeightsError(
            f"the weights {name} cannot be downloaded",
            where=published.url,
            found=getattr(error, "reason", None) or error,
            next_step=f"Check the network and run the same command again: it continues where it stopped. {by_hand}",
        ) from error
    except OSError as error:
        raise WeightsError(
            f"the weights {name} cannot be kept",
            where=target,
            found=error,
            next_step="Make room or make the folder writable, or set CLIP_ES_CACHE to another folder.",
        ) from error
    if found != published.sha256:
        raise WeightsError(
            f"this file is not the published {name}",
            where=target,
            expected=f"SHA-256 {published.sha256}",
            found=found,
            next_step=f"Delete it and run the same command again. {by_hand}",
        )
    return target


def _fetch(name: str, published: Published, target: Path, by_hand: str) -> None:
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(published.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
        response = None  # nothing is left to fetch; the hash below judges what is there
    if response is not None:
        with response:
            _append(name, response, part, have)
    found = _sha256(part)
    if found != published.sha256:
        part.unlink()  # a resume could only add to what is wrong
        raise WeightsError(
            f"the downloaded {name} is not the published file, and was deleted",
            where=published.url,
            expected=f"SHA-256 {published.sha256}",
            found=found,
            next_step=f"Run the same command again; a proxy or portal may have answered instead. {by_hand}",
        )
    part.replace(target)


def _append(name: str, response: http.client.HTTPResponse, part: Path, have: int) -> None:
    # A server that ignores Range answers 200 and sends the file from its beginning.
    start = have if response.status == http.client.PARTIAL_CONTENT else 0
    length = response.headers.get("Content-Length")
    total = start + int(length) if length and length.isdigit() else None
    with part.open("r+b" if start else "wb") as file, _bar() as bar:
        file.seek(start)
        task = bar.add_task(name, total=total, completed=start)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            bar.advance(task, len(chunk))
        done = file.tell()
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Lets one process at a time fetch a file, so that the shards of a run do not write into one another."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes opening one .part is an error there already
        yield
        return
    if target.exists():
        yield
        return
    with target.with_name(target.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
