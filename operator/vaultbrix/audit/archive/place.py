"""Where an archive is kept: a folder, or a bucket of an S3-compatible server."""

import io
import os
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from vaultbrix.audit.archive.manifest import NAME, SIGNATURE_NAME

_SET = re.compile(r"day=\d{4}-\d\d-\d\d/set=\d+").fullmatch
_CHUNK_BYTES = 8 << 20
_CONNECT_SECONDS, _REQUEST_SECONDS, _ATTEMPTS = 10, 60, 5


class BadPlace(ValueError):
    """The URL is none that an archive can be kept at: what is wrong, and what to write instead."""


class Place:
    """Files below a URL. A file is there whole or not at all. Methods raise OSError."""

    def __init__(self, url: str, environment: Mapping[str, str] = os.environ) -> None:
        """Take a folder's path or ``s3://bucket/prefix``; for the environment see ``_s3``. Raises BadPlace."""
        self.url = url
        parts = urlsplit(url)
        self.local = parts.scheme in ("", "file")
        if self.local:
            self.filesystem: pafs.FileSystem = pafs.LocalFileSystem()
            self._base = PurePosixPath(Path(parts.path).absolute())
        elif parts.scheme == "s3":
            if parts.username or parts.password or parts.query:
                raise BadPlace(
                    "it must hold no credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
                )
            if not parts.netloc:
                raise BadPlace("no bucket is named", "write s3://bucket/prefix")
            self.filesystem = _s3(environment)
            self._base = PurePosixPath(parts.netloc + parts.path)
        else:
            raise BadPlace(f"{parts.scheme}: is not known", "write a folder's path or s3://bucket/prefix")

    def path(self, name: str) -> str:
        """Path of a file below the URL, as the file system names it. Raises BadPlace for one outside."""
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise BadPlace(f"{name} is not below it", "check the manifest's key: no archive has such names")
        return str(self._base / relative)

    def open(self, name: str) -> BinaryIO:
        """To read, at any position. Raises FileNotFoundError."""
        opened: BinaryIO = self.filesystem.open_input_file(self.path(name))
        return opened

    def read(self, name: str) -> bytes:
        """Content of a small file. Raises FileNotFoundError."""
        with self.open(name) as file:
            return file.read()

    def names(self, directory: str) -> set[str]:
        """Names of the files right in a directory; of one that is not there, none."""
        chosen = pafs.FileSelector(self.path(directory), allow_not_found=True)
        return {i.base_name for i in self.filesystem.get_file_info(chosen) if i.type == pafs.FileType.File}

    def sets(self, day: date | None = None) -> list[str]:
        """Folders of sets (of a day) below the URL, with a manifest or without."""
        base = self._base / f"day={day.isoformat()}" if day else self._base
        chosen = pafs.FileSelector(str(base), allow_not_found=True, recursive=True)
        files = [i.path for i in self.filesystem.get_file_info(chosen) if i.type == pafs.FileType.File]
        folders = {str(PurePosixPath(path).parent.relative_to(self._base)) for path in files}
        return sorted(name for name in folders if _SET(name))

    def put(self, name: str, source: Path) -> None:
        """Copy a local file to a name below the URL."""
        with source.open("rb") as file:
            self._put(name, file)

    def put_bytes(self, name: str, content: bytes) -> None:
        """Write a small file below the URL."""
        self._put(name, io.BytesIO(content))

    def _put(self, name: str, source: BinaryIO) -> None:
        path = self.path(name)
        if not self.local:
            # An object appears once its upload is complete.
            with self.filesystem.open_output_stream(path) as target:
                while chunk := source.read(_CHUNK_BYTES):
                    target.write(chunk)
            return
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.partial")
        with partial.open("wb") as out:
            while chunk := source.read(_CHUNK_BYTES):
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        partial.rename(final)
        _sync(final.parent)

    def delete(self, name: str) -> None:
        """Delete a file, which may be gone already."""
        try:
            self.filesystem.delete_file(self.path(name))
        except FileNotFoundError:
            pass

    def delete_set(self, directory: str) -> None:
        """Delete a whole set, its manifest first, so that no manifest stands for files that are not there."""
        self.delete(f"{directory}/{NAME}")
        self.delete(f"{directory}/{SIGNATURE_NAME}")
        for name in sorted(self.names(directory)):
            self.delete(f"{directory}/{name}")
        if self.local:
            Path(self.path(directory)).rmdir()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _s3(environment: Mapping[str, str]) -> pafs.FileSystem:
    """An S3 client configured as the AWS SDKs are: credentials of environment, profile or role; AWS_ENDPOINT_URL."""
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    options = {}
    if endpoint:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadPlace("AWS_ENDPOINT_URL is no URL of a server", "write http://host:port or https://host:port")
        options = {"scheme": parts.scheme, "endpoint_override": parts.netloc}
    return pafs.S3FileSystem(
        region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1",
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        **options,
    )
