"""Which addresses may be dialed: public ones, and of each forbidden kind none."""

import pytest

from contracts.outbound.addresses import blocked


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "shared"),
        ("100.100.100.200", "shared"),
        ("169.254.169.254", "link_local"),
        ("168.63.129.16", "metadata"),
        ("192.0.0.192", "reserved"),
        ("198.18.0.1", "benchmark"),
        ("203.0.113.7", "documentation"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("255.255.255.255", "reserved"),
        ("::1", "loopback"),
        ("::", "unspecified"),
        ("::ffff:127.0.0.1", "mapped"),
        ("::ffff:8.8.8.8", "mapped"),
        ("::7f00:1", "mapped"),
        ("64:ff9b::7f00:1", "nat64"),
        ("64:ff9b::808:808", "nat64"),
        ("64:ff9b:1::a00:1", "nat64"),
        ("2002:7f00:1::", "tunnel"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "tunnel"),
        ("fd00:ec2::254", "private"),
        ("fe80::1", "link_local"),
        ("fe80::1%eth0", "link_local"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "documentation"),
        ("4000::1", "reserved"),
        ("localhost", "unreadable"),
        ("127.1", "unreadable"),
        ("", "unreadable"),
    ],
)
def test_what_is_blocked(address: str, reason: str) -> None:
    assert blocked(address) == reason


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700:4700::1111"])
def test_public_addresses_pass(address: str) -> None:
    assert blocked(address) is None


def test_loopback_is_admitted_only_as_it_is_written() -> None:
    assert blocked("127.0.0.1", loopback=True) is None
    assert blocked("::1", loopback=True) is None
    for disguised in ("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "10.0.0.1"):
        assert blocked(disguised, loopback=True) is not None
