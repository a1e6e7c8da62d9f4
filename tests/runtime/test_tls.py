"""Computes by TLS: both sides show a certificate, and a compute is bound to the one that it came with first."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ebbtide.lab import Compute
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab


class Authority:
    """Certificates made for a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.certificate = folder / "ca.pem"
        self._run(
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=lab authority",
            *self._out("ca"),
        )

    def _out(self, name: str) -> list[str]:
        return ["-keyout", str(self.folder / f"{name}.key"), "-out", str(self.folder / f"{name}.pem")]

    def _run(self, *words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True)

    def issue(self, name: str) -> tuple[Path, Path]:
        """(certificate, key)."""
        key, request, made = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        words = ["-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request)]
        self._run("req", *words)
        signed = ["-CA", str(self.certificate), "-CAkey", str(self.folder / "ca.key"), "-CAcreateserial", "-days", "2"]
        self._run("x509", "-req", "-in", str(request), *signed, "-out", str(made))
        return made, key


def use(compute: Compute, authority: Authority, name: str) -> None:
    certificate, key = authority.issue(name)
    compute.vsctl("set-ssl", str(key), str(certificate), str(authority.certificate))


def test_a_compute_that_comes_by_tls_is_served_and_bound_to_its_certificate(
    make_cloud: Callable[..., Cloud], tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.issue("controller")
    cloud = make_cloud(
        ovsdb_listen="pssl:6640:10.255.0.1",
        openflow_listen="pssl:6653:10.255.0.1",
        ssl_cert=str(certificate),
        ssl_key=str(key),
        ssl_ca=str(authority.certificate),
        silence=0.0,
    )
    for compute in cloud.lab.add_computes(["a", "b"]):
        use(compute, authority, compute.name)
        compute.register("ssl:10.255.0.1:6640")
    cloud.wait_ready("a", "b")
    assert 'target: "ssl:10.255.0.1:6653"' in cloud.lab.compute("a").vsctl("list", "controller").replace(
        'target              : "', 'target: "'
    )
    cloud.add_network("blue", "10.1.0.0/24")
    cloud.add_vm("vm1", "a", "blue", 1)
    cloud.add_vm("vm2", "b", "blue", 2)
    assert cloud.lab.vm("vm1").reaches("10.1.0.2")
    cloud.assert_clean()

    cluster = cloud.controller.app.cluster
    cloud.lab.compute("a").unregister()
    use(cloud.lab.compute("a"), authority, "somebody")
    cloud.lab.compute("a").register("ssl:10.255.0.1:6640")
    cloud.wait(lambda: any("another certificate" in r for r in cluster.refused.values()), what="refused", deadline=30)
    assert cloud.lab.vm("vm1").ping("10.1.0.2", count=3).lost == 0
    cloud.call(cloud.service.approve("a"))
    cloud.wait_ready("a", "b", deadline=40)
    cloud.assert_clean()


def test_a_compute_without_a_certificate_of_ours_is_not_heard(make_cloud: Callable[..., Cloud], tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    certificate, key = ours.issue("controller")
    cloud = make_cloud(
        ovsdb_listen="pssl:6640:10.255.0.1",
        openflow_listen="pssl:6653:10.255.0.1",
        ssl_cert=str(certificate),
        ssl_key=str(key),
        ssl_ca=str(ours.certificate),
    )
    stranger = cloud.lab.add_compute("stranger")
    made, own = theirs.issue("stranger")
    stranger.vsctl("set-ssl", str(own), str(made), str(ours.certificate))
    stranger.register("ssl:10.255.0.1:6640")
    member = cloud.lab.add_compute("a")
    use(member, ours, "a")
    member.register("ssl:10.255.0.1:6640")
    cloud.wait_ready("a")
    assert set(cloud.controller.app.cluster.state.by_name) == {"a"}
