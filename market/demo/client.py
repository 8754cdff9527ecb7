"""What a participant's own program would be: a small HTTP client that repeats safely.

Every POST carries an Idempotency-Key that depends on the run and the step only, and is repeated
with the same key when the connection breaks or the server asks to wait. So a crash of the API at
any moment neither loses nor doubles a step (the crash tests play the demo through this client).
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import stamina

# Long enough for a restart of the API under test, bounded for a person who waits.
REPEAT_ATTEMPTS = 40
REPEAT_TIMEOUT_S = 60
UPLOAD_CHUNK_BYTES = 1 << 18
_LATER = frozenset({502, 503, 504})


class DemoFailed(RuntimeError):
    """A step was answered otherwise than the demo expects; the text names the answer."""


class TryLater(Exception):
    """The server asked to repeat (503, or 409 while the first use of the key runs)."""


def _repeatable(error: Exception) -> bool:
    return isinstance(error, httpx.TransportError | TryLater)


class Participant:
    """One organization with its credential: logs in by itself, repeats by itself."""

    def __init__(
        self, base_url: str, run: str, name: str, credential: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.party_id = ""
        self._run = run
        self._credential = dict(credential or {})
        self._token: str | None = None
        self._http = httpx.Client(base_url=base_url, timeout=httpx.Timeout(60, connect=5))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def sign_up(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Register and keep the credential."""
        made = self.post("/v1/parties", body, step="sign-up", anonymous=True)
        return self.adopt(made)

    def adopt(self, registration: Mapping[str, Any]) -> dict[str, Any]:
        """Take over the party and credential of a registration answer."""
        self.party_id = registration["party"]["id"]
        credential = registration["credential"]
        self._credential = {
            "client_id": credential["client_id"],
            "client_secret": credential["client_secret"],
        }
        party: dict[str, Any] = registration["party"]
        return party

    def get(self, path: str, **params: Any) -> Any:
        """GET a JSON document."""
        return self._json(self.send("GET", path, params=params), 200)

    def post(
        self,
        path: str,
        body: Any,
        *,
        step: str,
        expect: int = 201,
        anonymous: bool = False,
    ) -> Any:
        """POST under this step's key; the answer must have the expected status."""
        answer = self.send("POST", path, json=body, headers=self.key(step), anonymous=anonymous)
        return self._json(answer, expect)

    def put(self, path: str, body: Any, **headers: str) -> Any:
        """PUT a JSON document."""
        return self._json(self.send("PUT", path, json=body, headers=headers), 200)

    def delete(self, path: str) -> httpx.Response:
        """DELETE; the caller looks at the status."""
        return self.send("DELETE", path)

    def upload(self, path: str, file: Path, media_type: str, *, step: str, advance: Any) -> Any:
        """POST a file, streamed; ``advance(bytes)`` moves a progress bar."""

        def chunks() -> Iterator[bytes]:
            with file.open("rb") as source:
                while chunk := source.read(UPLOAD_CHUNK_BYTES):
                    advance(len(chunk))
                    yield chunk

        headers = {**self.key(step), "Content-Type": media_type}
        answer = self.send("POST", path, content=chunks, headers=headers)
        return self._json(answer, 201)

    def key(self, step: str) -> dict[str, str]:
        """The Idempotency-Key header of a step of this run."""
        digest = hashlib.sha256(f"{self._run}/{self.name}/{step}".encode()).hexdigest()
        return {"Idempotency-Key": f"demo-{digest[:32]}"}

    @property
    def token(self) -> str:
        """A current access token."""
        if self._token is None:
            form = {"grant_type": "client_credentials", **self._credential}
            answer = self._attempts("POST", "/oauth2/token", data=form)
            self._token = str(self._json(answer, 200)["access_token"])
        return self._token

    def send(
        self, method: str, path: str, *, anonymous: bool = False, **kwargs: Any
    ) -> httpx.Response:
        """One request, repeated until it is answered for good."""
        headers = dict(kwargs.pop("headers", None) or {})
        for _ in range(2):
            if not anonymous and "Authorization" not in headers:
                headers["Authorization"] = f"Bearer {self.token}"
            answer = self._attempts(method, path, headers=headers, **kwargs)
            if answer.status_code != 401 or anonymous or self._token is None:
                return answer
            # The token ran out (or the sandbox clock moved past it): log in once more.
            if headers["Authorization"] != f"Bearer {self._token}":
                return answer
            self._token = None
            del headers["Authorization"]
        return answer

    def _attempts(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        content = kwargs.pop("content", None)
        for attempt in stamina.retry_context(
            on=_repeatable,
            attempts=REPEAT_ATTEMPTS,
            timeout=REPEAT_TIMEOUT_S,
            wait_initial=0.1,
            wait_max=1.0,
        ):
            with attempt:
                body = {"content": content()} if content is not None else {}
                answer = self._http.request(method, path, **kwargs, **body)
                if answer.status_code in _LATER or (
                    answer.status_code == 409 and "idempotency_key_in_use" in answer.text
                ):
                    raise TryLater(answer.text)
        return answer

    def _json(self, answer: httpx.Response, expect: int) -> Any:
        if answer.status_code != expect:
            raise DemoFailed(
                f"{self.name}: {answer.request.method} {answer.request.url.path} answered"
                f" {answer.status_code}, not {expect}: {answer.text[:600]}"
            )
        return answer.json()
