"""A browser without scripts: keeps cookies, reads forms out of pages, sends them back."""

import html
import re
from dataclasses import dataclass

import httpx
from fastapi import FastAPI

from tests.market.parties.factories import Member

_FORM = re.compile(r"<form\b([^>]*)>(.*?)</form>", re.DOTALL)
_INPUT = re.compile(r"<input\b([^>]*)>")
_ATTRIBUTE = re.compile(r'([a-z-]+)="([^"]*)"')


def _attributes(text: str) -> dict[str, str]:
    return {name: html.unescape(value) for name, value in _ATTRIBUTE.findall(text)}


def hidden_fields(page: str, action: str) -> dict[str, str]:
    """The hidden fields of the form that posts to ``action``."""
    for head, body in _FORM.findall(page):
        if _attributes(head).get("action") == action:
            inputs = [_attributes(each) for each in _INPUT.findall(body)]
            return {i["name"]: i["value"] for i in inputs if i.get("type") == "hidden"}
    raise AssertionError(f"no form posts to {action}")


@dataclass
class Browser:
    """One visitor."""

    http: httpx.AsyncClient

    @classmethod
    def on(cls, app: FastAPI, base_url: str = "http://market.test") -> "Browser":
        """A fresh browser on the app."""
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        return cls(httpx.AsyncClient(transport=transport, base_url=base_url))

    async def get(
        self, path: str, *, expect: int = 200, headers: dict[str, str] | None = None
    ) -> str:
        """A page's HTML."""
        answer = await self.http.get(path, headers=headers)
        assert answer.status_code == expect, answer.text
        return answer.text

    async def post(
        self,
        path: str,
        fields: dict[str, str],
        *,
        expect: int = 303,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Send a form's fields as they are."""
        answer = await self.http.post(path, data=fields, headers=headers)
        assert answer.status_code == expect, answer.text
        return answer

    async def form(
        self, page: str, action: str, fields: dict[str, str] | None = None
    ) -> dict[str, str]:
        """The fields of a form on a page, filled in."""
        return {**hidden_fields(await self.get(page), action), **(fields or {})}

    async def submit(
        self, page: str, act: str, fields: dict[str, str] | None = None, *, expect: int = 303
    ) -> httpx.Response:
        """Open a page, fill in its form for ``act`` and send it."""
        action = f"{page}/{act}"
        return await self.post(action, await self.form(page, action, fields), expect=expect)

    async def sign_in(self, member: Member, *, expect: int = 303, **fields: str) -> httpx.Response:
        """Sign in with a credential."""
        typed = {"client_id": member.client_id, "client_secret": member.client_secret, **fields}
        filled = await self.form("/console/sign-in", "/console/sign-in", typed)
        return await self.post("/console/sign-in", filled, expect=expect)
