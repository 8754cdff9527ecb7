"""Blobs: immutable files by key, in a local folder or any S3 (obstore)."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import LocalStore, from_url

from market.kernel.db import assert_no_unit_of_work
from market.kernel.errors import NotFound

_KEY = re.compile(r"^[a-z0-9_-]+(/[a-z0-9._-]+)+$")
_CHUNK_BYTES = 1 << 20
# Least recently used copies of remote blobs go first beyond this (DuckDB needs local files).
CACHE_MAX_BYTES = 4 << 30


class BlobNotFound(NotFound):
    code = "blob_not_found"
    title = "The stored file is missing"


class Blobs:
    """The store. Keys are lowercase paths made by us, never client input."""

    def __init__(self, url: str | None, home: Path) -> None:
        self._folder: Path | None = None
        if url is None or url.startswith("file://"):
            folder = home / "blobs" if url is None else Path(url.removeprefix("file://"))
            self._folder = folder.resolve()
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._store = LocalStore(self._folder)
        else:
            self._store = from_url(url)  # type: ignore[assignment]
        self._cache = (home / "blob-cache").resolve()

    async def put(self, key: str, data: bytes) -> None:
        """Store bytes under ``key`` (atomic rename or S3 put; same key, same content)."""
        assert_no_unit_of_work()
        await obstore.put_async(self._store, _checked(key), data)

    async def put_file(self, key: str, path: Path) -> None:
        """Store a local file under ``key``, streamed in parts."""
        assert_no_unit_of_work()
        await obstore.put_async(self._store, _checked(key), path)

    async def get(self, key: str) -> bytes:
        """The whole blob. Raises BlobNotFound."""
        assert_no_unit_of_work()
        try:
            result = await obstore.get_async(self._store, _checked(key))
            return bytes(await result.bytes_async())
        except (NotFoundError, FileNotFoundError) as error:
            raise BlobNotFound from error

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """The blob in chunks of at most about 1 MiB. Raises BlobNotFound."""
        assert_no_unit_of_work()
        try:
            result = await obstore.get_async(self._store, _checked(key))
        except (NotFoundError, FileNotFoundError) as error:
            raise BlobNotFound from error
        async for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
            yield bytes(chunk)

    async def delete(self, key: str) -> None:
        """Remove a blob; a missing one is no error."""
        assert_no_unit_of_work()
        try:
            await obstore.delete_async(self._store, _checked(key))
        except (NotFoundError, FileNotFoundError):
            return

    async def list_keys(self, prefix: str, *, limit: int = 1_000) -> list[tuple[str, float]]:
        """Up to ``limit`` keys below ``prefix`` with their age as a Unix time (for sweeping)."""
        found: list[tuple[str, float]] = []
        async for batch in obstore.list(self._store, prefix=prefix, chunk_size=200):
            found.extend((meta["path"], meta["last_modified"].timestamp()) for meta in batch)
            if len(found) >= limit:
                break
        return found[:limit]

    async def local_path(self, key: str) -> Path:
        """A local file with the blob's content; a remote store downloads it to a bounded cache."""
        if self._folder is not None:
            path = self._folder / _checked(key)
            if not await asyncio.to_thread(path.is_file):
                raise BlobNotFound
            return path
        return await self._cached(key)

    async def _cached(self, key: str) -> Path:
        path = self._cache / _checked(key)
        if await asyncio.to_thread(path.is_file):
            await asyncio.to_thread(os.utime, path)
            return path
        draft = path.with_name(f".{path.name}.{uuid4().hex}")
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                async for chunk in self.stream(key):
                    await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(os.replace, draft, path)
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)
        await asyncio.to_thread(_evict, self._cache, keep=path)
        return path


def _checked(key: str) -> str:
    if not _KEY.match(key) or ".." in key:
        raise ValueError(f"not a blob key: {key}")
    return key


def _evict(folder: Path, *, keep: Path) -> None:
    files = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
    total = sum(stat.st_size for _, stat in files)
    for path, stat in sorted(files, key=lambda item: item[1].st_mtime):
        if total <= CACHE_MAX_BYTES:
            return
        if path != keep:
            path.unlink(missing_ok=True)
            total -= stat.st_size
