"""Inclusion proofs: offline, of one transfer, and worthless after any change."""

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from market.kernel.clock import Clock
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Keyring, Role
from settlement.accounts import AccountRef
from settlement.chain import leaf_hash, merkle_root
from settlement.checkpoints import CHECKPOINT_TYP, write_checkpoint
from settlement.commands import Applied, Capture
from settlement.inclusion import audit_path, root_of
from settlement.proof_check import Proof, ProofInvalid, check_proof
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import available, book, escrowed, fund, hold, now, transfer


def path_of(transfer_id: object) -> str:
    return f"/v1/ledger/transfers/{transfer_id}/proof"


@pytest.fixture(scope="module")
async def payer(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER)


@pytest.fixture(scope="module")
async def payee(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.SELLER)


@pytest.fixture(scope="module")
async def paid(kernel: Kernel, payer: Member, payee: Member) -> str:
    """The fourth of eleven transfers of a batch; two more batches, then a checkpoint."""
    source, target = await fund(kernel, payer.party_id, 5_000), available(payee.party_id)
    others = [await fund(kernel, new_id(), 100) for _ in range(10)]
    commands = [transfer(other, available(new_id()), 1) for other in others]
    commands.insert(3, transfer(source, target, 1_234))
    results = await book(kernel, *commands)
    done = results[3]
    assert isinstance(done, Applied)
    assert done.transfer_id is not None
    await fund(kernel, new_id(), 1)
    await fund(kernel, new_id(), 2)
    assert await write_checkpoint(kernel) == 1
    return show("txn", done.transfer_id)


@pytest.fixture(scope="module")
async def proof(client: httpx.AsyncClient, payer: Member, paid: str) -> bytes:
    answer = await client.get(path_of(paid), headers=payer.headers())
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.content


async def test_a_party_proves_its_transfer_with_published_keys_only(
    client: httpx.AsyncClient, proof: bytes, paid: str, payer: Member, payee: Member
) -> None:
    jwks = (await client.get("/.well-known/jwks.json")).json()
    proven = check_proof(proof, jwks)
    shown = proven.summary()
    assert (shown["transfer_id"], shown["kind"]) == (paid, "test")
    amounts = {leg["account_id"]: leg["amount_minor"] for leg in shown["postings"]}
    assert amounts == {
        show("acc", available(payer.party_id).id): -1_234,
        show("acc", available(payee.party_id).id): 1_234,
    }
    assert shown["checkpoint_number"] == shown["link_number"] + 2
    # 11 leaves: the fourth has neighbors on four levels.
    assert len(json.loads(proof)["path"]) == 4
    assert check_proof(proof + b"\n", jwks) == proven


async def test_a_proof_shows_no_balance(proof: bytes) -> None:
    leaf = json.loads(json.loads(proof)["leaf"])
    assert leaf[0] == 2
    assert [len(posting) for posting in leaf[7][5]] == [4, 4]
    # 5,000 came in and 1,234 went: 3,766 is nowhere.
    assert b"3766" not in proof.split(b'"path"')[0]


async def test_who_may_have_it(
    client: httpx.AsyncClient, kernel: Kernel, paid: str, payee: Member, proof: bytes
) -> None:
    for member in (
        payee,
        await make_party(kernel, Role.OPERATOR),
        await make_party(kernel, Role.REGULATOR),
    ):
        assert (await client.get(path_of(paid), headers=member.headers())).content == proof
    stranger = await make_party(kernel, Role.BUYER)
    for transfer_id in (paid, show("txn", new_id())):
        answer = await client.get(path_of(transfer_id), headers=stranger.headers())
        assert (answer.status_code, answer.json()["code"]) == (404, "transfer_not_found")
    assert (await client.get(path_of(paid))).status_code == 401


async def test_a_foreign_leg_gives_no_right(
    client: httpx.AsyncClient, kernel: Kernel, payer: Member
) -> None:
    """Escrow belongs to an agreement whose id somebody could have as party id: kinds count too."""
    escrow = await escrowed(kernel, payer.party_id, 10)
    (done,) = await book(kernel, transfer(escrow, available(new_id()), 10))
    assert isinstance(done, Applied)
    assert done.transfer_id is not None
    answer = await client.get(path_of(show("txn", done.transfer_id)), headers=payer.headers())
    assert answer.status_code == 404


async def test_before_the_next_checkpoint_there_is_no_proof_yet(
    client: httpx.AsyncClient, kernel: Kernel, payer: Member
) -> None:
    (done,) = await book(kernel, transfer(available(payer.party_id), available(new_id()), 1))
    assert isinstance(done, Applied)
    assert done.transfer_id is not None
    path = path_of(show("txn", done.transfer_id))
    early = await client.get(path, headers=payer.headers())
    assert (early.status_code, early.json()["code"]) == (503, "proof_not_ready")
    assert early.headers["retry-after"] == "10"
    await write_checkpoint(kernel)
    ready = await client.get(path, headers=payer.headers())
    assert ready.status_code == 200
    assert check_proof(ready.content, kernel.keys.jwks()).id == done.transfer_id


async def test_captures_are_proved_with_hold_and_resolution(
    client: httpx.AsyncClient, kernel: Kernel, payer: Member
) -> None:
    source = available(payer.party_id)
    kept = hold(source, 300, await now(kernel) + timedelta(days=1))
    await book(kernel, kept)
    target = AccountRef("escrow", new_id(), "CNY")
    rest = new_id()
    capture = Capture(
        f"c:{rest.hex}", kept.hold_id, "sale", ((target, 200),), rehold=50, rehold_id=rest
    )
    (done,) = await book(kernel, capture)
    assert isinstance(done, Applied)
    assert done.transfer_id is not None
    await write_checkpoint(kernel)
    answer = await client.get(path_of(show("txn", done.transfer_id)), headers=payer.headers())
    proven = check_proof(answer.content, kernel.keys.jwks())
    assert {p.account_id: p.amount for p in proven.postings} == {source.id: -200, target.id: 200}
    assert (proven.kind, len(json.loads(answer.content)["path"])) == ("sale", 0)


@hypothesis_settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_changed_byte_is_refused(proof: bytes, kernel: Kernel, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(proof) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda value: value != proof[place]))
    changed = proof[:place] + bytes([other]) + proof[place + 1 :]
    with pytest.raises(ProofInvalid):
        check_proof(changed, kernel.keys.jwks())


async def test_every_single_bit_counts(proof: bytes, kernel: Kernel) -> None:
    jwks = kernel.keys.jwks()
    for place in range(len(proof)):
        changed = bytearray(proof)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(ProofInvalid):
            check_proof(bytes(changed), jwks)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(transfer_id=show("txn", new_id())),
        lambda d: d.update(leaf=d["leaf"].replace("1234", "1235")),
        lambda d: d.update(path=d["path"][1:]),
        lambda d: d["path"].reverse(),
        lambda d: d["path"][0].__setitem__(0, "left" if d["path"][0][0] == "right" else "right"),
        lambda d: d["link"].update(number=d["link"]["number"] + 1),
        lambda d: d["link"].update(previous="00" * 32),
        lambda d: d["roots"].pop(),
        lambda d: d["roots"].append("00" * 32),
        lambda d: d["roots"].reverse(),
        lambda d: d.update(checkpoint=d["checkpoint"][:-1]),
        lambda d: d.update(more=1),
        lambda d: d.pop("roots"),
    ],
)
async def test_forged_documents_are_refused(proof: bytes, kernel: Kernel, change: Any) -> None:
    document = json.loads(proof)
    change(document)
    forged = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    assert forged != proof
    with pytest.raises(ProofInvalid):
        check_proof(forged, kernel.keys.jwks())


async def test_other_keys_and_other_documents_prove_nothing(proof: bytes, kernel: Kernel) -> None:
    stranger = Keyring([Ed25519PrivateKey.generate()], issuer="x", clock=Clock())
    for jwks in (stranger.jwks(), {}, {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "!"}]}):
        with pytest.raises(ProofInvalid):
            check_proof(proof, jwks)
    # Signed by us, but as something else; and signed by us for another head.
    document = json.loads(proof)
    claims = kernel.keys.verify(CHECKPOINT_TYP, document["checkpoint"])
    for typ, change in (("certificate+jws", {}), (CHECKPOINT_TYP, {"hash": "00" * 32})):
        document["checkpoint"] = kernel.keys.sign(typ, {**claims, **change})
        with pytest.raises(ProofInvalid):
            check_proof(Proof.model_validate(document).to_bytes(), kernel.keys.jwks())
    for nonsense in (b"", b"null", b"[]", b"{}", proof[:-1], proof + b"\n\n", b" " + proof):
        with pytest.raises(ProofInvalid):
            check_proof(nonsense, kernel.keys.jwks())


@given(st.integers(1, 70), st.data())
def test_audit_paths_lead_to_the_rfc_6962_root(size: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(size)]
    index = data.draw(st.integers(0, size - 1))
    path = audit_path(leaves, index)
    assert len(path) <= size.bit_length()
    assert root_of(leaves[index], path) == merkle_root(leaves)
    other = data.draw(st.integers(0, size - 1).filter(lambda n: n != index)) if size > 1 else None
    if other is not None:
        assert root_of(leaves[other], path) != merkle_root(leaves)
    with pytest.raises(IndexError):
        audit_path(leaves, size)


def test_audit_path_is_that_of_the_rfc() -> None:
    """RFC 6962 §2.1.3: of seven leaves, d0's path is [b, h, l] and d6's is [i, k]."""
    leaves = [leaf_hash(bytes([number])) for number in range(7)]
    a, b, c, d, e, f, j = leaves
    g, h, i = (merkle_root(pair) for pair in ([a, b], [c, d], [e, f]))
    k, tail = merkle_root([g, h]), merkle_root([e, f, j])
    assert audit_path(leaves, 0) == [("right", b), ("right", h), ("right", tail)]
    assert audit_path(leaves, 3) == [("left", c), ("left", g), ("right", tail)]
    assert audit_path(leaves, 6) == [("left", i), ("left", merkle_root([a, b, c, d]))]
    assert k == merkle_root([a, b, c, d])
