"""CONNECT decisions, admitted clients and forbidden addresses."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.config import Config, Tunnel
from regcachd.connect import Authority
from regcachd.intercept import Decision, Intercept, Refuse, admitted, decide, forbidden_address
from regcachd.intercept import Tunnel as Passed

CONFIG = Config()
LISTED = Tunnel(policy="list", hosts=("proxy.example.org", "*.example.com", "2001:db8::1"))


def connect(target: str, tunnel: Tunnel) -> Decision:
    return decide(Authority.parse(target), CONFIG.authorities, tunnel)


@pytest.mark.parametrize("policy", ["allow", "deny", "list"])
@pytest.mark.parametrize(
    ("target", "registry"),
    [
        ("registry-1.docker.io:443", "docker.io"),
        ("index.docker.io:443", "docker.io"),
        ("docker.io:443", "docker.io"),
        ("QUAY.io.:443", "quay.io"),
        ("auth.docker.io:443", "docker.io"),
    ],
)
def test_a_registry_is_intercepted_whatever_tunnels_may_do(target: str, registry: str, policy: str) -> None:
    assert connect(target, Tunnel(policy=policy)) == Intercept(registry)


@pytest.mark.parametrize(
    ("target", "tunnel"),
    [
        ("tokens.example.net:443", Tunnel()),
        ("example.com:8443", Tunnel(ports=frozenset({443, 8443}))),
        ("proxy.example.org:443", LISTED),
        ("a.example.com:443", LISTED),
        ("a.b.example.com:443", LISTED),
        ("[2001:db8:0::1]:443", LISTED),
    ],
)
def test_other_hosts_get_a_tunnel_where_the_policy_allows_it(target: str, tunnel: Tunnel) -> None:
    assert connect(target, tunnel) == Passed()


@pytest.mark.parametrize(
    ("target", "tunnel", "remedy"),
    [
        ("example.com:443", Tunnel(policy="deny"), 'policy of [tunnel] to "list" or "allow"'),
        ("example.com:22", Tunnel(), "add 22 to ports of [tunnel]"),
        ("quay.io:8443", Tunnel(), "add 8443 to ports of [tunnel]"),
        ("example.com:443", Tunnel(ports=frozenset()), "add 443 to ports of [tunnel]"),
        ("a.example.com:22", LISTED, "add 22 to ports of [tunnel]"),
        ("example.com:443", LISTED, "add example.com to hosts of [tunnel]"),
        ("badexample.com:443", LISTED, "add badexample.com to hosts of [tunnel]"),
        ("a.example.com.evil.org:443", LISTED, "add a.example.com.evil.org to hosts of [tunnel]"),
        ("sub.proxy.example.org:443", LISTED, "add sub.proxy.example.org to hosts of [tunnel]"),
    ],
)
def test_a_refusal_names_the_target_and_the_key_that_would_allow_it(
    target: str, tunnel: Tunnel, remedy: str
) -> None:
    decision = connect(target, tunnel)
    assert isinstance(decision, Refuse)
    assert decision.status == 403
    assert decision.reason.startswith(f"{target} is not one of this proxy's registries")
    assert remedy in decision.reason
    assert "add it to [registries]" in decision.reason


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.9.9",
        "::1",
        "fd00::5",
        "::ffff:10.0.0.1",
        "::ffff:a00:1",
    ],
)
def test_private_and_loopback_clients_are_admitted_by_default(address: str) -> None:
    assert admitted(address, CONFIG.clients)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "172.32.0.1",
        "2001:db8::1",
        "::ffff:8.8.8.8",
        "fe80::1%eth0",
        "",
        "10.0.0",
        "localhost",
        "10.0.0.1:80",
    ],
)
def test_other_clients_and_what_is_no_address_are_not_admitted(address: str) -> None:
    assert not admitted(address, CONFIG.clients)


def test_a_link_local_client_is_admitted_with_its_zone() -> None:
    assert admitted("fe80::1%eth0", [ip_network("fe80::/10")])


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("240.0.0.1", "reserved"),
        ("4000::1", "reserved"),
        ("fd00:ec2::254", "metadata"),
        ("fd20:ce::254", "metadata"),
        ("100.100.100.200", "metadata"),
        ("::127.0.0.1", "reserved"),
        ("64:ff9b:1::7f00:1", "reserved"),
    ],
)
def test_no_tunnel_leads_to_the_machine_itself_or_its_link(address: str, kind: str) -> None:
    assert kind in (forbidden_address(address) or "allowed")


@pytest.mark.parametrize(
    "form",
    [
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:5601:5601",
    ],
    ids=["mapped", "NAT64", "6to4", "Teredo"],
)
def test_an_ipv4_address_inside_an_ipv6_one_is_found(form: str) -> None:
    reason = forbidden_address(form)
    assert reason is not None
    assert reason.endswith("stands for 169.254.169.254, a link-local address")


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "2606:4700::1111",
        "fd12:3456::1",
        "::ffff:10.0.0.1",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_public_and_private_addresses_are_fine(address: str) -> None:
    assert forbidden_address(address) is None


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.1", "0x7f000001", "2130706433", "[::1]", "127.0.0.1:80"]
)
def test_what_is_no_address_is_forbidden(text: str) -> None:
    assert "not an IP address" in (forbidden_address(text) or "allowed")


@given(st.ip_addresses(v=4))
def test_every_way_to_carry_an_ipv4_address_is_judged_like_the_address(address: object) -> None:
    high, low = divmod(int(address), 65536)  # type: ignore[call-overload]
    plain = forbidden_address(str(address)) is None
    for form in (f"::ffff:{address}", f"64:ff9b::{address}", f"2002:{high:x}:{low:x}::1"):
        assert (forbidden_address(form) is None) == plain
