import asyncio

import argon2
import pytest

from market.parties import hashing
from market.parties.errors import HashingBusy
from market.parties.hashing import DUMMY_HASH, QUEUE_MAX, SecretHasher


async def test_a_hash_verifies_its_own_secret_only() -> None:
    hasher = SecretHasher()
    stored = await hasher.hash("right")
    assert stored != await hasher.hash("right")
    assert await hasher.verify(stored, "right") is True
    assert await hasher.verify(stored, "wrong") is False
    assert await hasher.verify("$argon2id$broken", "right") is False
    assert await hasher.verify(None, "right") is False


async def test_the_dummy_costs_exactly_a_real_hash() -> None:
    stored = await SecretHasher().hash("right")
    dummy, real = (argon2.extract_parameters(text) for text in (DUMMY_HASH, stored))
    assert dummy == real
    assert dummy.type is argon2.Type.ID
    assert (dummy.memory_cost, dummy.time_cost, dummy.parallelism) == (19_456, 2, 1)


async def test_the_event_loop_runs_on_while_threads_hash() -> None:
    hasher = SecretHasher()
    work = asyncio.create_task(hasher.hash("right"))
    turns = 0
    while not work.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 3


async def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "QUEUE_MAX", 4)
    hasher = SecretHasher()
    results = await asyncio.gather(*(hasher.hash("x") for _ in range(9)), return_exceptions=True)
    assert len([r for r in results if isinstance(r, str)]) == 4
    busy = [r for r in results if isinstance(r, HashingBusy)]
    assert len(busy) == 5
    assert busy[0].headers["Retry-After"] == "2"
    # It is free again afterwards, also when work was abandoned.
    abandoned = asyncio.create_task(hasher.hash("y"))
    await asyncio.sleep(0)
    abandoned.cancel()
    with pytest.raises(asyncio.CancelledError):
        await abandoned
    assert (await hasher.hash("z")).startswith("$argon2id$")
    assert QUEUE_MAX == 64
