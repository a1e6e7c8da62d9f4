"""Proofs on real switches: signed, honest about whom they could not read, completed at that one's return; and checked without us."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ebbtide.cli.main import cli
from ebbtide.cli.proofs import FALSE, OPEN
from ebbtide.decide import proofs
from ebbtide.model.facts import Proof
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab


def remove(cloud: Cloud, name: str, vm: str) -> Proof:
    """Scale a compute in whose VM is deleted; its proof."""
    cluster = cloud.controller.app.cluster
    cloud.call(cloud.service.start([name]))
    if vm in cluster.state.bindings:
        cloud.lab.remove_vm(vm)
    cloud.wait(lambda: vm not in cluster.state.bindings, what=f"{name} to be empty")
    operation = cloud.call(cloud.service.end([name]))
    assert operation is not None
    return cluster.state.proofs[operation.id]


def proof_of(cloud: Cloud, operation: str) -> Proof:
    return cloud.controller.app.cluster.state.proofs[operation]


def verify(directory: Path, proof: Proof, key: str, body: str | None = None) -> Result:
    """`ebbtide proof verify`, with nothing but two files."""
    (directory / "c.proof").write_text(
        json.dumps({"body": body or proof.body, "signature": proof.signature, "key": proof.key})
    )
    (directory / "key.pem").write_text(key)
    return CliRunner().invoke(cli, ["proof", "verify", str(directory / "c.proof"), "--key", str(directory / "key.pem")])


def test_a_removal_is_proven_and_the_proof_holds_without_the_controller(trio: Cloud, tmp_path: Path) -> None:
    gone, key = trio.fact("a"), trio.controller.app.cluster.proofs.signer.public
    proof = remove(trio, "a", "vm1")
    told = proofs.read(proof.body)
    assert (told.clean, told.complete, [x.name for x in told.removed]) == (True, True, ["a"])
    assert set(gone.identities()) <= set(told.removed[0].identities)
    assert [x.compute for x in told.checked] == ["b", "c"]
    for entry in told.checked:
        held = trio.lab.compute(entry.compute).ofctl("dump-flows", "br-int").count("cookie=")
        assert entry.flows == held
        assert entry.applied >= told.revision
        assert entry.tunnels == 1
    result = verify(tmp_path, proof, key)
    assert result.exit_code == 0, result.output
    assert "the signature is right" in result.output
    # A word changed, another's key: false. The same by somebody else's tool.
    assert verify(tmp_path, proof, key, proof.body.replace('"residue":[]', '"residue":[ ]', 1)).exit_code == FALSE
    (tmp_path / "body").write_text(proof.body)
    (tmp_path / "signature").write_bytes(base64.b64decode(proof.signature))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(tmp_path / "key.pem"), "-rawin"]
    command += ["-in", str(tmp_path / "body"), "-sigfile", str(tmp_path / "signature")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    # The key is the controller's for as long as its directory is there.
    trio.restart_controller()
    assert trio.controller.app.cluster.proofs.signer.public == key
    assert trio.directory.joinpath("state", "proof.key").stat().st_mode & 0o777 == 0o600


def test_who_could_not_be_read_is_named_and_read_at_its_return(trio: Cloud, tmp_path: Path) -> None:
    cluster, c = trio.controller.app.cluster, trio.lab.compute("c")
    c.cut_control()
    trio.wait(lambda: not trio.controller.member("c").connected, what="c cut off")
    proof = remove(trio, "a", "vm1")
    told = proofs.read(proof.body)
    assert (told.clean, told.complete, [x.compute for x in told.owing]) == (True, False, ["c"])
    assert verify(tmp_path, proof, proof.key).exit_code == OPEN
    trio.restart_controller()
    cluster = trio.controller.app.cluster
    c.heal_control()
    trio.wait(lambda: not cluster.state.debts, deadline=40, what="the debt to be paid")
    after = proof_of(trio, proof.operation)
    told = proofs.read(after.body)
    assert (told.complete, told.owing, after.owed) == (True, (), ())
    assert [(x.compute, x.paid, x.residue) for x in told.checked] == [("b", False, ()), ("c", True, ())]
    assert verify(tmp_path, after, after.key).exit_code == 0


def test_who_owes_and_is_removed_itself_will_never_be_read_and_that_is_said(trio: Cloud, tmp_path: Path) -> None:
    cluster, c = trio.controller.app.cluster, trio.lab.compute("c")
    c.kill_all()
    trio.wait(lambda: not trio.controller.member("c").connected, what="c dead")
    first = remove(trio, "a", "vm1")
    trio.call(trio.service.delete_port("vm3"))
    second = remove(trio, "c", "vm3")
    trio.wait(lambda: not proof_of(trio, first.operation).owed, what="the first proof to say that c is gone")
    told = proofs.read(proof_of(trio, first.operation).body)
    assert [(x.compute, x.gone, told.complete) for x in told.owing] == [("c", True, False)]
    struck = proof_of(trio, first.operation)
    assert verify(tmp_path, struck, struck.key).exit_code == OPEN
    assert second.owed == (cluster.state.removed[second.computes[0]].number,), "it owes the wiping of itself"


def test_residue_that_comes_back_with_a_compute_keeps_its_debt(trio: Cloud) -> None:
    """Something of a removed compute that is no flow of ours: nothing cleans it, so the debt stays, and the proof open."""
    cluster, c = trio.controller.app.cluster, trio.lab.compute("c")
    number = trio.fact("a").number
    c.cut_control()
    trio.wait(lambda: not trio.controller.member("c").connected, what="c cut off")
    proof = remove(trio, "a", "vm1")
    c.vsctl("set", "Bridge", "br-int", "external_ids:left-by=system-a")
    identity = next(x for x in proofs.read(proof.body).removed[0].identities if x.startswith("system-id:"))
    c.vsctl("set", "Bridge", "br-int", f"external_ids:left-by={identity.partition(':')[2]}")
    c.heal_control()
    trio.wait_ready("b", "c", deadline=30)
    member = trio.controller.member("c")
    trio.wait(lambda: member.clean, what="c clean")
    assert (member.number, number) in cluster.state.debts
    c.vsctl("remove", "Bridge", "br-int", "external_ids", "left-by")
    trio.wait(lambda: not cluster.state.debts, deadline=30, what="the debt to be paid")
    assert proofs.read(proof_of(trio, proof.operation).body).complete
