"""Commands, answers and refusals as bytes, for an engine in another process.

Every kind of command is a dataclass of ``Command``; its fields are read off the class, so a new
kind needs nothing here.
"""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_type_hints

import orjson
from pydantic import BaseModel, ConfigDict, create_model

from market.kernel.errors import MarketError
from market.kernel.idempotency import Answer
from market.matching.commands import Command, Reply


class _Message(BaseModel):
    model_config = ConfigDict(
        extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", hide_input_in_errors=True
    )


def _message_of(kind: type[Any]) -> type[_Message]:
    hints = get_type_hints(kind)
    fields: dict[str, Any] = {
        field.name: (hints[field.name], ...) for field in dataclasses.fields(kind)
    }
    return create_model(kind.__name__, __base__=_Message, **fields)


_KINDS: dict[str, tuple[type[Any], type[_Message]]] = {
    kind.__name__: (kind, _message_of(kind)) for kind in get_args(Command)
}


class Relayed(MarketError):
    """A refusal that another process's engine raised, as it was there."""


def dump_command(command: Command) -> bytes:
    """The command with its kind, as JSON."""
    kind = type(command).__name__
    _, message = _KINDS[kind]
    # Constructed, not validated: it was validated where it was made.
    fields = message.model_construct(
        **{name: getattr(command, name) for name in message.model_fields}
    )
    return orjson.dumps([kind, orjson.Fragment(fields.model_dump_json(exclude_unset=True))])


def load_command(data: bytes) -> Command:
    """The same command again. Raises ValueError for what :func:`dump_command` did not make."""
    kind, fields = orjson.loads(data)
    if kind not in _KINDS:
        raise ValueError(f"no such command: {kind}")
    made, message = _KINDS[kind]
    found = message.model_validate_json(orjson.dumps(fields))
    command: Command = made(**{name: getattr(found, name) for name in message.model_fields})
    return command


def dump_error(error: MarketError) -> Answer:
    """A refusal that is raised where it arrives (:func:`load_error`)."""
    body = {
        "code": error.code,
        "title": error.title,
        "detail": error.detail,
        "param": error.param,
        "hint": error.hint,
        "extra": error.extra,
    }
    return Answer(error.status, orjson.dumps(body, default=str), error.headers)


def load_error(answer: Answer) -> Relayed:
    """The refusal with its status, code, words and headers."""
    body = orjson.loads(answer.body)
    error = Relayed(
        body["detail"],
        param=body["param"],
        hint=body["hint"],
        headers=answer.headers,
        **body["extra"],
    )
    # Of this one: the class has those of no refusal in particular.
    error.status = answer.status  # type: ignore[misc]
    error.code, error.title = body["code"], body["title"]  # type: ignore[misc]
    return error


def headers_text(headers: dict[str, str]) -> str:
    """Headers as JSON."""
    return orjson.dumps(headers).decode()


def reply_of(status: int, body: bytes, headers: str, *, replayed: bool) -> Reply:
    """An answer from its columns."""
    return Reply(Answer(status, body, orjson.loads(headers)), replayed=replayed)
