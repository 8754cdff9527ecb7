"""The official Python client of Delta Sharing, in its own environment, as a process."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

PYTHON = Path(__file__).resolve().parents[3] / ".venv" / "sharing-client" / "bin" / "python"
# The client alone takes two seconds to import on a quiet machine.
RUN_TIMEOUT_S = 240

# What the process runs: its environment has packages that ours has not. Reads a list of calls
# ``[name, arguments]`` and prints one answer or refusal for each.
_PROGRAM = """
import json, sys
import delta_sharing
from delta_sharing.protocol import DeltaSharingProfile
from delta_sharing.rest_client import DataSharingRestClient

# Ten retries of a server's fault take 102 s; one shows it as well.
DataSharingRestClient.__init__.__defaults__ = (1,)

profile, calls = sys.argv[1], json.load(sys.stdin)
client = delta_sharing.SharingClient(profile)

def rest():
    return DataSharingRestClient(DeltaSharingProfile.read_from_file(profile))

def shown(frame):
    return {
        "rows": len(frame),
        "columns": list(frame.columns),
        "dtypes": [str(each) for each in frame.dtypes],
        "head": json.loads(frame.head(3).to_json(orient="values", date_format="iso")),
        "sum": int(frame["id"].sum()) if "id" in frame else None,
    }

def name_of(table):
    return f"{table.share}.{table.schema}.{table.name}"

def url():
    return f"{profile}#{name_of(client.list_all_tables()[0])}"

def call(name, arguments):
    if name == "all_tables":
        return [name_of(each) for each in client.list_all_tables()]
    if name == "walk":
        shares = client.list_shares()
        schemas = client.list_schemas(shares[0])
        tables = client.list_tables(schemas[0])
        return [shares[0].name, schemas[0].name, name_of(tables[0])]
    if name == "version":
        return delta_sharing.get_table_version(url(), **arguments)
    if name == "metadata":
        found = delta_sharing.get_table_metadata(url())
        return [found.id, json.loads(found.schema_string), found.partition_columns]
    if name == "protocol":
        return delta_sharing.get_table_protocol(url()).min_reader_version
    if name == "load":
        return shown(delta_sharing.load_as_pandas(url(), **arguments))
    if name == "changes":
        return shown(delta_sharing.load_table_changes_as_pandas(url(), starting_version=0))
    raise ValueError(name)

answers = []
for name, arguments in calls:
    try:
        answers.append({"answer": call(name, arguments)})
    except Exception as error:
        answers.append({"error": type(error).__name__, "text": str(error)})
sys.stderr.flush()
print("\\n" + json.dumps(answers))
"""


async def use(profile: Path, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Run ``calls`` one after another; an ``answer``, or an ``error`` with its ``text``, each."""
    assert PYTHON.exists(), "the official client is missing: run `make sharing-client`"
    environment = {"PATH": os.defpath, "HOME": str(profile.parent), "LANG": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(
        str(PYTHON),
        "-c",
        _PROGRAM,
        str(profile),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(RUN_TIMEOUT_S):
            out, err = await process.communicate(json.dumps(calls).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()[-3000:]
    found: list[dict[str, Any]] = json.loads(out.decode().strip().splitlines()[-1])
    return found
