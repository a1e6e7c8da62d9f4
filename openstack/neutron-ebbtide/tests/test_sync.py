"""neutron-ebbtide-sync: what differs is found, and repaired as far as that is safe."""

from __future__ import annotations

from pathlib import Path

import pytest
from deployment import ROOT, Deployment

pytestmark = pytest.mark.lab


def test_what_differs_is_found_and_repaired(running: Deployment) -> None:
    neutron, controller = running.neutron, running.controller
    network, subnet = running.network()
    group = neutron.make_one("security-groups", name="web")["id"]
    running.wait_told()
    # By hand: one document is deleted, one is changed, one is of nobody.
    controller.ask("DELETE", f"{ROOT}/security-groups/{group}")
    controller.ask("PUT", f"{ROOT}/subnets/{subnet}", {"subnet": {"dns_nameservers": ["192.0.2.1"]}})
    controller.ask("POST", f"{ROOT}/networks", {"network": {"id": "stray"}})
    # Tags and descriptions are no matter.
    neutron.ask("PUT", f"networks/{network}/tags/blue")
    code, words = neutron.sync("--check")
    assert code == 1
    lines = [line.split(maxsplit=2) for line in words.splitlines()]
    assert ["security-groups", group, "missing there"] in lines
    assert ["subnets", subnet, "differs there"] in lines
    assert ["networks", "stray", "unknown here"] in lines
    assert not any(network in line for line in lines)
    assert sum(line[0] == "security-group-rules" for line in lines) == 0, "they are still there"

    assert neutron.sync("--repair")[0] == 0
    running.wait_told()
    assert controller.told("subnets")[subnet]["dns_nameservers"] == []
    assert group in controller.told("security-groups")
    assert "stray" not in controller.told("networks")
    assert neutron.sync("--check") == (0, "0 differ; 0 wait in the journal\n")


def test_without_neutrons_own_files_nothing_is_compared(running: Deployment, tmp_path: Path) -> None:
    bare = tmp_path / "neutron.conf"
    bare.write_text("[DEFAULT]\ncore_plugin = ml2\n")
    code, words = running.neutron.sync("--check", f"--config-file={bare}", alone=True)
    assert code == 2
    assert "none of these files has ebbtide" in words


def test_what_would_do_harm_is_left_to_force(running: Deployment) -> None:
    neutron, controller = running.neutron, running.controller
    network, _ = running.network()
    running.wait_told()
    strays = [{"id": f"stray{number}"} for number in range(4)]
    # Neutron's database is restored from yesterday: what it says next is older than what was said.
    own = f"SELECT standard_attr_id FROM neutron.networks WHERE id = '{network}'"
    neutron.change("networks", network, mtu=1300)
    running.wait_told()
    controller.ask("POST", f"{ROOT}/networks", {"networks": strays})
    neutron.database.ask(f"UPDATE neutron.standardattributes SET revision_number = 0 WHERE id = ({own})")
    neutron.change("networks", network, mtu=1200)
    refused = "SELECT error FROM neutron.ebbtide_journal WHERE tries > 0"
    running.wait(lambda: "a later change" in neutron.database.ask(refused), "it to be noticed")
    code, words = neutron.sync("--repair")
    assert code == 1
    assert words.count("unknown here, and left so") == 4
    assert words.count("newer there, and left so") == 1
    assert controller.told("networks")[network]["mtu"] == 1300

    assert neutron.sync("--repair", "--force")[0] == 0
    running.wait_told()
    assert controller.told("networks").keys() == {network}
    assert controller.told("networks")[network]["mtu"] == 1200
    neutron.change("networks", network, mtu=1100)
    running.wait(lambda: controller.told("networks")[network]["mtu"] == 1100, "the next change to arrive")


def test_who_does_not_answer_is_said_to(running: Deployment) -> None:
    running.controller.kill()
    assert running.neutron.sync("--check")[0] == 2


def test_a_url_with_a_password_in_it_is_not_taken(running: Deployment, tmp_path: Path) -> None:
    more = tmp_path / "more.conf"
    more.write_text("[ebbtide]\nurl = https://neutron:hunter2@127.0.0.1:8181\n")
    code, words = running.neutron.sync(f"--config-file={more}", "--check")
    assert code == 2
    assert "has a user in it" in words
    assert "hunter2" not in words


def test_what_keeps_it_from_comparing_is_no_difference(running: Deployment, tmp_path: Path) -> None:
    code, words = running.neutron.sync(f"--config-file={tmp_path}/missing.conf", "--check")
    assert code == 2
    assert "missing.conf" in words
    more = tmp_path / "more.conf"
    url = running.neutron.database.url("neutron")
    more.write_text(
        f"[database]\nconnection = {url.replace(running.neutron.files.password, 'wrong')}\nmax_retries = 1\n"
    )
    code, words = running.neutron.sync(f"--config-file={more}", "--check")
    assert code == 2
    assert "it cannot be compared" in words
    assert "Traceback" not in words
