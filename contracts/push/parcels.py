"""What a target is sent: signed posts to a webhook, signed puts into a bucket.

Webhooks are signed as Standard Webhooks 1.0.0 says: HMAC-SHA-256 over ``id.timestamp.body``.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import obstore
from obstore.store import S3Store

from contracts.push.models import PushTarget, TargetKind
from contracts.push.sending import Parcel

SECRET_PREFIX = "whsec_"  # noqa: S105 - no secret
_SECRET_BYTES = 32
_SIGNED_FOR = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Message:
    """A body under a name that is the same at every attempt."""

    id: str
    path: str
    media_type: str
    body: bytes
    headers: Mapping[str, str]


def new_signing_secret() -> str:
    """A webhook's secret as its buyer gets it."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signature(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """The ``webhook-signature`` header."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


async def pack(
    target: PushTarget, secret: Mapping[str, Any], message: Message, *, now_s: int
) -> Parcel:
    """The request that carries ``message``; ``secret`` is the target's, opened."""
    if target.kind == TargetKind.WEBHOOK:
        headers = {
            "Content-Type": message.media_type,
            "webhook-id": message.id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": signature(secret["signing"], message.id, now_s, message.body),
            **message.headers,
        }
        return Parcel("POST", target.url, tuple(headers.items()), message.body)
    store = S3Store(
        target.place["bucket"],
        endpoint=target.url,
        region=target.place["region"],
        access_key_id=secret["access_key_id"],
        secret_access_key=secret["secret_access_key"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    prefix = target.place["prefix"]
    path = f"{prefix}/{message.path}" if prefix else message.path
    # Only signed here: the store itself would dial whatever the name says by then.
    url = await obstore.sign_async(store, "PUT", path, _SIGNED_FOR)
    return Parcel("PUT", url, (("Content-Type", message.media_type),), message.body)
