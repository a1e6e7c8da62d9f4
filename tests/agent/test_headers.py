"""What a backend is told of a request, and what of an answer goes back: pure."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from ebbtide.agent.headers import Asker, path_of, signature, to_backend, to_guest
from ebbtide.agent.proxy import lport_of

ASKER = Asker("p1", "10.1.0.1", "i-1", "p-1")


def test_it_is_signed_as_nova_checks_it() -> None:
    assert signature(b"secret", "i-1") == hmac.new(b"secret", b"i-1", hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    "name",
    b"x-instance-id x_instance_id x-tenant-id x_tenant-id x-instance-id-signature x-forwarded-for forwarded x-metadata-provider"
    b" host connection transfer-encoding content-length x".split(),
)
def test_nothing_of_a_guests_own_goes_on_but_what_is_listed(name: bytes) -> None:
    told = to_backend([(name, b"forged"), (b"accept", b"*/*")], ASKER, b"secret", "nova:8775", b"")
    assert b"forged" not in [value for _, value in told]
    assert dict(told) == {
        b"Host": b"nova:8775",
        b"Connection": b"close",
        b"X-Instance-ID": b"i-1",
        b"X-Instance-ID-Signature": signature(b"secret", "i-1").encode(),
        b"X-Tenant-ID": b"p-1",
        b"X-Forwarded-For": b"10.1.0.1",
        b"accept": b"*/*",
    }


def test_a_port_without_an_address_is_told_without_one() -> None:
    told = dict(to_backend([], ASKER._replace(address=""), b"secret", "nova", b"abc"))
    assert b"X-Forwarded-For" not in told
    assert told[b"Content-Length"] == b"3"


def test_what_is_of_one_connection_only_does_not_go_back() -> None:
    answered = [
        (b"connection", b"close, X-Odd"),
        (b"x-odd", b"1"),
        (b"keep-alive", b"5"),
        (b"content-type", b"text/plain"),
    ]
    assert to_guest(answered) == [(b"content-type", b"text/plain")]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/openstack?x=1", b"/openstack?x=1"),
        (b"http://169.254.169.254/latest", b"/latest"),
        (b"HTTP://169.254.169.254", b"/"),
        (b"*", None),
        (b"nova:8775", None),
        (b"https://other/", None),
    ],
)
def test_the_path_that_is_asked_for(target: bytes, path: bytes | None) -> None:
    assert path_of(target) == path


@pytest.mark.parametrize(
    ("address", "lport"), [("100.64.0.1", 1), ("100.79.255.254", 0xFFFFE), ("100.80.0.1", 0), ("10.1.0.1", 0)]
)
def test_the_lport_that_an_address_stands_for(address: str, lport: int) -> None:
    assert lport_of(address) == lport
