"""Pictures named by where they lay for another tool: addresses, paths of other machines, names with a prefix."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|/data/|/tasks/")
_UPLOADED = re.compile(r"(?:[0-9a-f]{8}-|\?d=)(?=.)")
"""What Label Studio puts before the name of an uploaded file, or leaves there of a local one in its YOLO and VOC."""

_UPLOAD = re.compile(r"/data/upload/(?:[0-9]+/)?[0-9a-f]{8}-([^/]+)")
_NOT_KEPT = re.compile(r"[^-\w.]")

_DEEPEST = 64
_LONGEST = 4096


def tails(stated: str) -> Iterator[str]:
    """The ends of a stated path, the longest first: `a/b/c.jpg`, `b/c.jpg`, `c.jpg`; none of them leads upwards.

    An address is taken apart first: `/data/local-files/?d=a/b%20c.jpg` ends in `a/b c.jpg`. What `..` stands behind is
    left out. The last part is also tried without what an upload puts before it.
    """
    path = stated[:_LONGEST]
    if _ADDRESS.match(path):
        path = _path_of(path)
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    if not parts or any("\0" in part for part in parts):
        return
    parts = parts[-_DEEPEST:]
    if len(parts[0]) == 2 and parts[0][1] == ":":  # A drive.
        parts = parts[1:]
    bare = _UPLOADED.sub("", parts[-1], count=1) if parts and _UPLOADED.match(parts[-1]) else None
    for start in range(len(parts)):
        yield "/".join(parts[start:])
    for start in range(len(parts)) if bare else ():
        yield "/".join([*parts[start:-1], bare or ""])


def uploaded_name(stated: str) -> str | None:
    """What Label Studio calls an uploaded file, without the digits before it; None for other addresses."""
    found = _UPLOAD.search(_path_of(stated[:_LONGEST]))
    return found[1] if found else None


def uploaded_as(name: str) -> str:
    """What a file of this name is called once it was uploaded to Label Studio: blanks become underscores, and other
    letters than those of words, `-` and `.` are left out. Source: Django's `get_valid_filename`."""
    return _NOT_KEPT.sub("", name.rpartition("/")[2].strip().replace(" ", "_"))


def _path_of(address: str) -> str:
    try:
        parts = urlsplit(address)
        asked = parse_qs(parts.query)
    except ValueError:
        return address
    if "d" in asked:
        return asked["d"][-1]
    if "fileuri" in asked:  # The address of a file in a bucket, packed by Label Studio.
        try:
            return _path_of(b64decode(asked["fileuri"][-1][:_LONGEST]).decode())
        except ValueError:
            return asked["fileuri"][-1]
    return unquote(parts.path)
