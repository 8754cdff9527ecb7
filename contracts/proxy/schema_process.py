"""The schema process: runs what sellers wrote against what upstreams and buyers sent.

`python -m contracts.proxy.schema_process`. A schema of 32 KiB can make an answer of 4 MiB cost
minutes (a pattern alone: 86 µs a byte), and the engine holds the interpreter all that time; so it
runs here, under a bound of CPU time and memory. No environment, no database, no keys, no network
use. It ends with its input.

Wire: two lengths (32 bits, big-endian), the schema, the value; back: one length, one JSON object,
``{"findings": […]}``, ``{"invalid_schema": "…"}`` or ``{"not_json": true}``. A request that costs
too much has no answer: the kernel ends the process.
"""

import resource
import signal
import struct
import sys
from collections import OrderedDict
from itertools import islice
from typing import Any, BinaryIO

import orjson
from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError

CPU_S = 2.0
ADDRESS_SPACE_MAX_BYTES = 1 << 30
ERRORS_MAX = 10
HEAD = struct.Struct(">II")
LENGTH = struct.Struct(">I")
# Collecting all errors can cost thousands of times what finding the first one does.
_ALL_ERRORS_MAX_BYTES = 64 << 10
_MESSAGE_MAX = 200
_PATTERN_MAX_BYTES = 1 << 20
_COMPILED_MAX = 64
_MASK = "(value)"

_compiled: OrderedDict[bytes, Draft202012Validator] = OrderedDict()


def confine() -> None:
    """Bound this process's memory; a request's CPU time is bounded where it runs."""
    limit = ADDRESS_SPACE_MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def judged(schema: bytes, value: bytes) -> dict[str, Any]:
    """What is wrong with ``value``, if the schema can be used and it is JSON."""
    try:
        validator = _validator(schema)
    except (ValidationError, ValueError) as error:
        return {"invalid_schema": plain(str(getattr(error, "message", "")))}
    try:
        instance = orjson.loads(value)
    except orjson.JSONDecodeError:
        return {"not_json": True}
    if validator.is_valid(instance):
        return {"findings": []}
    return {"findings": [_finding(error) for error in _errors(validator, instance, len(value))]}


def plain(text: str) -> str:
    """Printable, short: names in an answer are the upstream's, and end up in logs and pages."""
    return "".join(char if char.isprintable() else "?" for char in text[:_MESSAGE_MAX])


def _errors(validator: Draft202012Validator, instance: Any, size: int) -> list[ValidationError]:
    if size <= _ALL_ERRORS_MAX_BYTES:
        return list(islice(validator.iter_errors(instance), ERRORS_MAX))
    try:
        validator.validate(instance)
    except ValidationError as error:
        return [error]
    return []


def _finding(error: ValidationError) -> dict[str, str]:
    return {
        "path": plain("/".join(["", *(str(part) for part in error.instance_path)])),
        "message": plain(error.message),
        "rule": plain("/".join(["", *(str(part) for part in error.schema_path)])),
    }


def _validator(text: bytes) -> Draft202012Validator:
    known = _compiled.get(text)
    if known is None:
        known = _compiled[text] = Draft202012Validator(
            orjson.loads(text),
            mask=_MASK,
            offline=True,
            pattern_options=RegexOptions(size_limit=_PATTERN_MAX_BYTES),
        )
        if len(_compiled) > _COMPILED_MAX:
            _compiled.popitem(last=False)
    _compiled.move_to_end(text)
    return known


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answer requests until the input ends."""
    while len(head := source.read(HEAD.size)) == HEAD.size:
        schema_bytes, value_bytes = HEAD.unpack(head)
        schema, value = source.read(schema_bytes), source.read(value_bytes)
        # SIGPROF's default action ends the process, also inside of the engine.
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        answer = orjson.dumps(judged(schema, value))
        signal.setitimer(signal.ITIMER_PROF, 0)
        target.write(LENGTH.pack(len(answer)) + answer)
        target.flush()


if __name__ == "__main__":
    confine()
    serve(sys.stdin.buffer, sys.stdout.buffer)
