"""A bucket on loopback that checks signatures.

Written by Amazon's description of "Authenticating Requests: Using Query Parameters (AWS Signature
Version 4)", not by the code of any client: what it takes, S3 takes.
"""

import hashlib
import hmac
from asyncio import StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, urlsplit

from tests.contracts.outbound.servers import Answer, Asked, head, serving

REGION, ACCESS_KEY, SECRET_KEY = "eu-central-1", "AKIDEXAMPLE", "wJalrXUtnFEMI+bPxRfiCYEXAMPLEKEY"


@dataclass
class Bucket:
    """``objects`` by path, with the bucket's name."""

    objects: dict[str, bytes] = field(default_factory=dict)
    refusals: int = 0

    async def answer(self, asked: Asked, writer: StreamWriter) -> None:
        """PUT, if it is signed."""
        if asked.method != "PUT" or not signed(asked):
            self.refusals += 1
            body = b"<Error><Code>SignatureDoesNotMatch</Code></Error>"
            writer.write(head(403, {"content-length": str(len(body))}) + body)
            return
        self.objects[urlsplit(asked.target).path] = asked.body
        writer.write(head(200, {"content-length": "0", "etag": '"x"'}))


class _Everywhere(dict[str, Answer]):
    """One answer for all paths."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def __missing__(self, _path: str) -> Answer:
        return self._answer


@asynccontextmanager
async def bucket_serving() -> AsyncIterator[tuple[Bucket, str]]:
    """A bucket and its endpoint."""
    bucket = Bucket()
    async with serving() as server:
        server.answers = _Everywhere(bucket.answer)
        yield bucket, server.url


def signed(asked: Asked) -> bool:
    """Whether the request carries a signature of ours that has not expired."""
    parts = urlsplit(asked.target)
    pairs = dict(parse_qsl(parts.query, keep_blank_values=True))
    given = pairs.pop("X-Amz-Signature", "")
    began = datetime.strptime(pairs["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if datetime.now(UTC) > began + timedelta(seconds=int(pairs["X-Amz-Expires"])):
        return False
    day = began.strftime("%Y%m%d")
    scope = f"{day}/{REGION}/s3/aws4_request"
    if pairs["X-Amz-Credential"] != f"{ACCESS_KEY}/{scope}":
        return False
    names = pairs["X-Amz-SignedHeaders"].split(";")
    canonical = "\n".join(
        [
            asked.method,
            parts.path,
            "&".join(
                f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
                for name, value in sorted(pairs.items())
            ),
            *(f"{name}:{asked.headers[name]}" for name in names),
            "",
            ";".join(names),
            "UNSIGNED-PAYLOAD",
        ]
    )
    text = "\n".join(
        [
            "AWS4-HMAC-SHA256",
            pairs["X-Amz-Date"],
            scope,
            hashlib.sha256(canonical.encode()).hexdigest(),
        ]
    )
    key = f"AWS4{SECRET_KEY}".encode()
    for piece in (day, REGION, "s3", "aws4_request"):
        key = hmac.digest(key, piece.encode(), "sha256")
    return hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), given)
