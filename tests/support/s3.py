"""A server on this machine that answers as S3 does (moto), with one bucket."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def s3_server() -> Iterator[str]:
    """Yields the address of a new bucket; the environment names the server, for this process and those it starts."""
    pytest.importorskip("pyarrow")
    server = pytest.importorskip("moto.server", reason="moto is not installed (see the Makefile)")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    told = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        from pyarrow import fs

        name = f"bucket-{secrets.token_hex(4)}"
        system, path = fs.FileSystem.from_uri(f"s3://{name}?allow_bucket_creation=true")
        system.create_dir(path)
        yield f"s3://{name}"
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        running.stop()
