"""Uploads: spool an untrusted body, then have it read by the confined parsing process.

The body is hashed while it streams to a scratch file, never held in memory. Reading happens in
`listings.parse` (memory, time and file limits), at most `PARSERS_MAX` at a time per process.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from email.message import Message
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from listings.errors import (
    PARSE_REFUSALS,
    FileUnreadable,
    UploadEmpty,
    UploadFormatUnsupported,
    UploadInterrupted,
    UploadsBusy,
    UploadTooLarge,
)
from listings.parse import ANSWER_NAME, ENGINE_MEMORY_MB
from listings.schemas import ColumnProfile, Sha256Hex, SourceFormat
from market.kernel.db import assert_no_unit_of_work
from market.kernel.logging import get_logger
from market.kernel.schemas import Schema

WRITE_BYTES = 1 << 20
# A slow sender holds a connection and a scratch file, nothing else, but not forever.
SPOOL_MAX_S = 1_800
# 528 MB of CSV (5.7 million rows) took 100 s on two cores at a load of 5; the default cap is 1 GiB.
PARSE_MAX_S = 300
PARSERS_MAX = 2
WAITING_MAX = 16
ANSWER_MAX_BYTES = 32 << 20
SCRATCH_PARENT, SCRATCH_PREFIX = "uploads", "upload-"

_PACKAGE_ROOT = Path(__file__).resolve().parents[1]
_FORMATS = {
    "text/csv": SourceFormat.CSV,
    "application/vnd.apache.parquet": SourceFormat.PARQUET,
}
# GB 18030 is a superset of GBK and GB 2312, which Chinese spreadsheet programs still write.
_CHARSETS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "utf-8",
    "gb18030": "gb18030",
    "gbk": "gb18030",
    "gb2312": "gb18030",
}
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Declared:
    """What the Content-Type says about the body."""

    format: SourceFormat
    charset: str


@dataclass(frozen=True, slots=True)
class Spooled:
    """An upload in its scratch folder."""

    work: Path
    source: Path
    sha256: str
    byte_count: int


class Parsed(Schema):
    """What the parsing process found; validated, because its input was not."""

    row_count: int = Field(ge=1)
    distinct_rows: int = Field(ge=0)
    latest: datetime | None
    columns: list[ColumnProfile] = Field(min_length=1)
    preview: list[list[str | int | float | bool | None]]
    sha256: Sha256Hex
    byte_count: int = Field(ge=1)


def read_content_type(value: str | None) -> Declared:
    """Raises UploadFormatUnsupported (415) for anything but the accepted formats."""
    message = Message()
    message["content-type"] = value or ""
    format_ = _FORMATS.get(message.get_content_type() if value else "")
    if format_ is None:
        raise UploadFormatUnsupported(param="Content-Type")
    charset = _CHARSETS.get(str(message.get_param("charset", "utf-8")).lower())
    if charset is None:
        raise UploadFormatUnsupported("The charset is not supported.", param="Content-Type")
    return Declared(format_, charset)


@contextlib.asynccontextmanager
async def scratch_folder(home: Path) -> AsyncIterator[Path]:
    """A private folder below ``home``, removed at the end whatever happens."""
    work = await asyncio.to_thread(_make_scratch, home)
    try:
        yield work
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, work, ignore_errors=True))


def _make_scratch(home: Path) -> Path:
    parent = home.resolve() / SCRATCH_PARENT
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))


async def spool(chunks: AsyncIterator[bytes], work: Path, *, max_bytes: int) -> Spooled:
    """Write the body to ``work``, hashing it.

    Raises UploadTooLarge (413) as soon as the cap is passed, UploadEmpty (422) for no bytes,
    UploadInterrupted (400) when it takes too long.
    """
    assert_no_unit_of_work()
    digest = hashlib.sha256()
    source = work / "source"
    total = 0
    buffer = bytearray()
    try:
        async with asyncio.timeout(SPOOL_MAX_S):
            with source.open("xb") as file:
                async for chunk in chunks:
                    total += len(chunk)
                    if total > max_bytes:
                        raise UploadTooLarge(
                            f"The file may have at most {max_bytes} bytes.",
                            headers={"Connection": "close"},
                        )
                    digest.update(chunk)
                    buffer += chunk
                    if len(buffer) >= WRITE_BYTES:
                        await asyncio.to_thread(file.write, bytes(buffer))
                        buffer.clear()
                await asyncio.to_thread(file.write, bytes(buffer))
    except TimeoutError as error:
        raise UploadInterrupted(f"It took more than {SPOOL_MAX_S} seconds.") from error
    if total == 0:
        raise UploadEmpty("The body is empty.")
    return Spooled(work, source, digest.hexdigest(), total)


class _Slots:
    """The parsing slots of one event loop, with a bounded queue."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(PARSERS_MAX)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING_MAX:
            raise UploadsBusy(retry_after_s=10)
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()


_slots: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Slots] = weakref.WeakKeyDictionary()


async def parse(spooled: Spooled, declared: Declared, *, now: datetime) -> tuple[Parsed, Path]:
    """Convert and profile a spooled file; the Parquet file stays in its scratch folder.

    Raises the refusals of `listings.errors.PARSE_REFUSALS` (422) and UploadsBusy (503).
    """
    assert_no_unit_of_work()
    request = {
        "source": str(spooled.source),
        "work": str(spooled.work),
        "format": declared.format.value,
        "charset": declared.charset,
        "now": now.isoformat(),
    }
    slots = _slots.setdefault(asyncio.get_running_loop(), _Slots())
    async with slots.one():
        await _run(json.dumps(request), spooled.work)
    answer = await asyncio.to_thread(_read_answer, spooled.work / ANSWER_NAME)
    if "refusal" in answer:
        refusal = answer["refusal"]
        error = PARSE_REFUSALS.get(refusal["code"], FileUnreadable)
        raise error(str(refusal["detail"])[:500], param=refusal["param"])
    try:
        parsed = Parsed.model_validate(answer["result"])
    except (KeyError, ValidationError) as error:
        raise FileUnreadable("The file could not be profiled.") from error
    return parsed, spooled.work / "converted.parquet"


async def _run(request: str, work: Path) -> None:
    # No inherited environment: addresses and secrets of this process stay here.
    environment = {"PATH": os.defpath, "HOME": str(work), "LANG": "C.UTF-8", "TMPDIR": str(work)}
    log = work / "log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-E",
            "-s",
            "-m",
            "listings.parse",
            request,
            cwd=_PACKAGE_ROOT,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(PARSE_MAX_S):
            code = await process.wait()
    except TimeoutError as error:
        raise FileUnreadable(f"Reading the file took more than {PARSE_MAX_S} seconds.") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if code != 0:
        tail = (await asyncio.to_thread(log.read_bytes))[-2_000:].decode(errors="replace")
        _log.warning("parser_died", exit_code=code, stderr=tail)
        raise FileUnreadable(f"Reading it needs more than {ENGINE_MEMORY_MB} MB, or it is broken.")


def _read_answer(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > ANSWER_MAX_BYTES:
            raise FileUnreadable("The profile is too large.")
        answer = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FileUnreadable("The file could not be profiled.") from error
    if not isinstance(answer, dict):
        raise FileUnreadable("The file could not be profiled.")
    return answer
