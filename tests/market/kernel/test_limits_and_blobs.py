"""Rate limits with and without the cache; blobs in a folder; keys that are no keys."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from market.kernel.blobs import BlobNotFound, Blobs
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.ratelimit import LimitsUnavailable, RateLimited, RateLimiter


async def test_shared_window(kernel: Kernel) -> None:
    key = new_id().hex
    for _ in range(3):
        (await kernel.limits.hit("t", key, limit=3)).require()
    last = await kernel.limits.hit("t", key, limit=3)
    assert (last.allowed, last.remaining) == (False, 0)
    with pytest.raises(RateLimited) as raised:
        last.require()
    assert 1 <= int(raised.value.headers["Retry-After"]) <= 60
    assert raised.value.headers["RateLimit-Policy"] == '"t";q=3;w=60'


async def test_uses_counted_ahead_are_the_limit_and_no_more(kernel: Kernel) -> None:
    key = new_id().hex
    windows = [await kernel.limits.hit_ahead("t", key, limit=250) for _ in range(251)]
    assert [window.allowed for window in windows] == [True] * 250 + [False]
    assert [window.remaining for window in windows[:3]] == [249, 248, 247]
    with pytest.raises(RateLimited):
        windows[-1].require()


async def test_a_small_limit_is_counted_one_by_one(kernel: Kernel) -> None:
    key = new_id().hex
    other = RateLimiter(kernel.settings.redis_url or "")
    for limits in (kernel.limits, other):
        assert (await limits.hit_ahead("t", key, limit=2)).allowed
    assert not (await kernel.limits.hit_ahead("t", key, limit=2)).allowed
    await other.close()


@pytest.fixture
async def lost() -> AsyncIterator[RateLimiter]:
    # Port 1 on loopback: nothing listens, connections are refused at once.
    limiter = RateLimiter("redis://127.0.0.1:1/0")
    yield limiter
    await limiter.close()


async def test_without_cache_public_limits_go_local(lost: RateLimiter) -> None:
    first = await lost.hit("t", "k", limit=1)
    second = await lost.hit("t", "k", limit=1)
    assert (first.allowed, second.allowed) == (True, False)


async def test_without_cache_login_fails_closed(lost: RateLimiter) -> None:
    with pytest.raises(LimitsUnavailable) as raised:
        await lost.hit("login", "k", limit=1, fail_closed=True)
    assert raised.value.headers["Retry-After"] == "2"


async def test_blobs(tmp_path: Path) -> None:
    blobs = Blobs(None, tmp_path)
    await blobs.put("data/a.bin", b"abc" * 1_000_000)
    assert await blobs.get("data/a.bin") == b"abc" * 1_000_000
    assert b"".join([chunk async for chunk in blobs.stream("data/a.bin")]) == b"abc" * 1_000_000
    assert (await blobs.local_path("data/a.bin")).read_bytes()[:3] == b"abc"
    source = tmp_path / "source"
    source.write_bytes(b"file")
    await blobs.put_file("data/b.bin", source)
    assert sorted(key for key, _ in await blobs.list_keys("data")) == ["data/a.bin", "data/b.bin"]
    await blobs.delete("data/a.bin")
    await blobs.delete("data/a.bin")
    with pytest.raises(BlobNotFound):
        await blobs.get("data/a.bin")
    with pytest.raises(BlobNotFound):
        await blobs.local_path("data/a.bin")


@pytest.mark.parametrize("key", ["../x", "a/../b", "/a/b", "a", "A/b", "a//b", "a/b\x00"])
async def test_blob_keys_cannot_escape(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="blob key"):
        await Blobs(None, tmp_path).put(key, b"x")


async def test_remote_blobs_are_cached_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from market.kernel import blobs as module

    monkeypatch.setattr(module, "CACHE_MAX_BYTES", 5)
    remote = Blobs("memory:///", tmp_path)
    await remote.put("data/a.bin", b"12345")
    await remote.put("data/b.bin", b"67890")
    first = await remote.local_path("data/a.bin")
    assert first.read_bytes() == b"12345"
    assert await remote.local_path("data/a.bin") == first
    second = await remote.local_path("data/b.bin")
    assert second.read_bytes() == b"67890"
    assert not first.exists()
