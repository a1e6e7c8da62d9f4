"""What scripts/setup.sh does to a Debian machine, on one that is made of stubs: apt and dpkg write into a directory of the test."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .documents import ROOT

FOREIGN = b"#!/bin/sh\n# somebody else's\nexit 101\n"
TOOLS = [
    "bash",
    "sh",
    "awk",
    "grep",
    "sed",
    "sort",
    "sha256sum",
    "cat",
    "rm",
    "chmod",
    "ln",
    "flock",
    "dirname",
    "touch",
    "mkdir",
]
PROVIDES = {
    "openvswitch-common": "ovsdb-server ovsdb-tool ovsdb-client ovs-ofctl ovs-appctl",
    "openvswitch-switch": "ovs-vswitchd ovs-vsctl",
    "ovn-common": "ovn-nbctl",
    "ovn-central": "ovn-northd",
    "ovn-host": "ovn-controller",
    "mariadb-client": "mariadb",
    "mariadb-server": "mariadbd mariadb-install-db",
    "rabbitmq-server": "rabbitmq-server",
    "erlang-base": "epmd",
    "busybox": "busybox",
    "dnsmasq-base": "dnsmasq",
    "iptables": "iptables iptables-save",
}
SERVICES = ("openvswitch-switch", "ovn-central", "ovn-host", "mariadb-server", "rabbitmq-server", "erlang-base")

DRIVER = "openstack/neutron-ebbtide/pyproject.toml"

# $STUB: `state/PACKAGE` is what dpkg-query says, `calls` what was called. A package brings its commands when it is unpacked.
APT_GET = r"""#!/usr/bin/env bash
echo "apt-get $*" >>"$STUB/calls"
case " $* " in
  *" -s "*) cat "$STUB/plan"; exit ;;
  *" update "*) exit ;;
esac
echo "apt-get runs"
"$EBBTIDE_SETUP_ROOT/usr/sbin/policy-rc.d" any start; echo "policy $?" >>"$STUB/calls"
while read -r _ package _; do
  echo "${STUB_STATE-installed}" >"$STUB/state/$package"
  for command in $(cat "$STUB/provides/$package"); do
    printf '#!/bin/sh\n' >"$STUB/bin/$command"; chmod 755 "$STUB/bin/$command"
  done
done <"$STUB/plan"
[[ -z ${STUB_SIGNAL-} ]] || kill -"$STUB_SIGNAL" $PPID
exit "${STUB_EXIT-0}"
"""
DPKG = r"""#!/usr/bin/env bash
case $1 in
  -L) [[ ! -e "$STUB/services/$2" ]] || echo "/lib/systemd/system/$2.service" ;;
  --configure)
    echo "dpkg $*" >>"$STUB/calls"
    "$EBBTIDE_SETUP_ROOT/usr/sbin/policy-rc.d" any start; echo "policy $?" >>"$STUB/calls"
    for package in "${@:2}"; do echo installed >"$STUB/state/$package"; done ;;
esac
"""
DPKG_QUERY = '#!/bin/sh\nfor package; do :; done\ncat "$STUB/state/$package"\n'
LOGGED = '#!/usr/bin/env bash\necho "${0##*/} $*" >>"$STUB/calls"\n'


class Machine:
    """A checkout, a root directory, and a PATH that holds nothing else than what is here."""

    def __init__(self, path: Path) -> None:
        self.stub, self.root, self.checkout = path / "stub", path / "root", path / "checkout"
        for directory in ("stub/bin", "stub/state", "stub/provides", "stub/services", "root/usr/sbin", "root/var/lib"):
            (path / directory).mkdir(parents=True)
        (path / "root/etc").mkdir()
        (path / "root/etc/debian_version").write_text("12\n")
        self.policy = self.root / "usr/sbin/policy-rc.d"
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, tool
            (self.stub / "bin" / tool).symlink_to(found)
        for name, text in {"apt-get": APT_GET, "dpkg": DPKG, "dpkg-query": DPKG_QUERY}.items():
            self.command(name, text)
        for name in ("systemctl", "deb-systemd-helper", "update-rc.d", "service", "invoke-rc.d", "pip"):
            self.command(name, LOGGED)
        self.command("apt-cache", "#!/bin/sh\necho '  Candidate: 3.1.0'\n")
        for name in ("ip", "bridge", "nsenter", "setsid", "unshare"):
            self.command(name)
        for package, commands in PROVIDES.items():
            (self.stub / "provides" / package).write_text(commands)
        for package in SERVICES:
            (self.stub / "services" / package).touch()
        self._checkout()

    def _checkout(self) -> None:
        """With an environment that is ready, so that nothing is to be done but the Debian part."""
        (self.checkout / "scripts").mkdir(parents=True)
        (self.checkout / ".venv/bin").mkdir(parents=True)
        (self.checkout / "openstack").mkdir()
        scripts = ("scripts/setup.sh", "scripts/setup-openstack.sh", "scripts/packages.sh")
        locks = tuple(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.lock"), *ROOT.glob("openstack/*.lock")))
        for name in (*scripts, *locks, "pyproject.toml", DRIVER):
            (self.checkout / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, self.checkout / name)
        (self.checkout / ".venv/bin/python").symlink_to(sys.executable)
        (self.checkout / ".venv/bin/ebbtide").touch(0o755)
        self.make_from("requirements-dev.lock")
        for venv, parts in {
            ".venv-odl": ("openstack/odl.lock",),
            ".venv-openstack": ("openstack/cloud.lock", DRIVER, "pyproject.toml"),
        }.items():
            (self.checkout / venv / "bin").mkdir(parents=True)
            (self.checkout / venv / "bin/python").symlink_to(sys.executable)
            made = f"{self.checkout.resolve()}\n".encode() + b"".join((ROOT / part).read_bytes() for part in parts)
            (self.checkout / venv / ".ready").write_text(f"{hashlib.sha256(made).hexdigest()}  -\n")

    def make_from(self, lock: str) -> None:
        """As if the environment had been made from this set."""
        made = f"{self.checkout.resolve()}\n{lock}\n".encode()
        made += (self.checkout / lock).read_bytes() + (self.checkout / "pyproject.toml").read_bytes()
        (self.checkout / ".venv/.ready").write_text(f"{hashlib.sha256(made).hexdigest()}  -\n")

    def command(self, name: str, text: str = "#!/bin/sh\n") -> None:
        path = self.stub / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def has(self, *packages: str) -> None:
        for package in packages:
            (self.stub / "state" / package).write_text("installed\n")
            for command in PROVIDES[package].split():
                self.command(command)

    def plan(self, *lines: str) -> None:
        (self.stub / "plan").write_text("".join(f"Inst {line}\n" for line in lines))

    def setup(self, *options: str, script: str = "setup.sh", **stub: str) -> subprocess.CompletedProcess[str]:
        bash = self.stub / "bin" / "bash"
        return subprocess.run(
            [str(bash), str(self.checkout / "scripts" / script), *options],
            env={"PATH": str(self.stub / "bin"), "STUB": str(self.stub), "EBBTIDE_SETUP_ROOT": str(self.root), **stub},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self) -> list[str]:
        """What was called since this was asked last."""
        path = self.stub / "calls"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def left(self) -> list[str]:
        """Files outside of the checkout."""
        found = (p for p in self.root.rglob("*") if not p.is_dir())
        return sorted(str(p.relative_to(self.root)) for p in found if p.name != "debian_version")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.plan("openvswitch-common (3.1.0 Debian:12 [amd64])", "openvswitch-switch (3.1.0 Debian:12 [amd64])")
    return made


DISABLED = "systemctl --quiet disable openvswitch-switch.service"


def test_packages_are_listed_first_and_nothing_starts(machine: Machine) -> None:
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    said, ran = done.stdout.index("  openvswitch-switch 3.1.0\n"), done.stdout.index("apt-get runs")
    assert said < ran
    calls = machine.calls()
    installs = [c for c in calls if c.startswith("apt-get") and " -s " not in c]
    assert len(installs) == 1
    assert "DPkg::Lock::Timeout=300" in installs[0]
    assert installs[0].endswith("install openvswitch-common openvswitch-switch")
    assert calls[calls.index(installs[0]) + 1 :] == ["policy 101", DISABLED]
    assert machine.left() == []
    assert machine.setup().stdout == "setup: ready\n"
    assert machine.calls() == []


def test_the_controller_alone_needs_no_switch(machine: Machine) -> None:
    machine.plan("openvswitch-common (3.1.0 Debian:12 [amd64])")
    for tool in ("ip", "bridge", "nsenter", "setsid", "unshare"):
        (machine.stub / "bin" / tool).unlink()
    done = machine.setup("--runtime")
    assert done.returncode == 0, done.stderr
    assert [c.partition(" install ")[2] for c in machine.calls() if " install " in c] == ["openvswitch-common"] * 2


def test_an_environment_is_kept_for_whoever_needs_less(machine: Machine) -> None:
    machine.has("openvswitch-common", "openvswitch-switch")
    sizes = {"requirements.lock": "--runtime", "requirements-mover.lock": "--mover", "requirements-dev.lock": ""}
    for there, lock in enumerate(sizes):
        machine.make_from(lock)
        for wanted, option in enumerate(sizes.values()):
            is_ready = machine.setup(*option.split()).stdout == "setup: ready\n"
            assert is_ready == (wanted <= there), (lock, option)
            machine.make_from(lock)


def test_a_policy_of_somebody_else_stays_as_it_is(machine: Machine) -> None:
    machine.policy.write_bytes(FOREIGN)
    machine.policy.chmod(0o755)
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert machine.calls()[-1] == DISABLED
    assert machine.policy.read_bytes() == FOREIGN
    assert machine.left() == ["usr/sbin/policy-rc.d"]


def test_a_policy_that_lets_services_start_is_refused_before_apt_runs(machine: Machine) -> None:
    text = FOREIGN.replace(b"101", b"0")
    machine.policy.write_bytes(text)
    machine.policy.chmod(0o755)
    done = machine.setup()
    assert done.returncode == 1
    assert "openvswitch-common openvswitch-switch" in done.stderr
    assert all(" -s " in c for c in machine.calls())
    assert machine.policy.read_bytes() == text
    assert machine.left() == ["usr/sbin/policy-rc.d"]


def test_a_service_that_was_there_is_left_alone_though_it_is_upgraded(machine: Machine) -> None:
    machine.has("openvswitch-common", "openvswitch-switch", "ovn-common", "ovn-host")
    machine.plan("openvswitch-switch [3.0.9] (3.1.0 Debian:12 [amd64])", "ovn-central (23.03 Debian:12 [amd64])")
    done = machine.setup("--bench")
    assert done.returncode == 0, done.stderr
    assert "  openvswitch-switch [3.0.9] -> 3.1.0\n" in done.stdout
    assert [c for c in machine.calls() if not c.startswith("apt-get")] == [
        "policy 101",
        "systemctl --quiet disable ovn-central.service",
    ]


@pytest.mark.parametrize("policy", [None, FOREIGN], ids=["our policy", "somebody else's"])
def test_a_run_that_was_killed_is_finished_by_the_next(machine: Machine, policy: bytes | None) -> None:
    if policy is not None:
        machine.policy.write_bytes(policy)
        machine.policy.chmod(0o755)
    assert machine.setup(STUB_STATE="unpacked", STUB_SIGNAL="KILL").returncode == -signal.SIGKILL
    assert machine.policy.exists()
    machine.calls()
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert machine.calls() == ["dpkg --configure openvswitch-common openvswitch-switch", "policy 101", DISABLED]
    assert machine.left() == ([] if policy is None else ["usr/sbin/policy-rc.d"])
    assert policy is None or machine.policy.read_bytes() == policy
    assert machine.setup().stdout == "setup: ready\n"


def test_a_run_that_was_killed_when_all_was_installed_is_finished_too(machine: Machine) -> None:
    machine.setup(STUB_SIGNAL="KILL")
    machine.calls()
    assert machine.setup().returncode == 0
    assert machine.calls() == [DISABLED]
    assert machine.left() == []


def test_a_policy_of_ours_alone_goes(machine: Machine) -> None:
    machine.has("openvswitch-common", "openvswitch-switch")
    machine.policy.write_text("#!/bin/sh\n# placed by ebbtide's scripts/setup.sh, for ...\nexit 101\n")
    assert machine.setup().returncode == 0
    assert machine.calls() == [], "who installed what is there is not known: it is left alone"
    assert machine.left() == []


@pytest.mark.parametrize("end", ["TERM", "INT", "HUP"])
@pytest.mark.parametrize("state", ["unpacked", "installed"])
def test_a_run_that_is_ended_by_a_signal_cleans_up_itself(machine: Machine, state: str, end: str) -> None:
    done = machine.setup(STUB_STATE=state, STUB_SIGNAL=end)
    assert done.returncode == 130
    calls = machine.calls()
    assert calls[-1] == DISABLED
    assert ("dpkg --configure openvswitch-common openvswitch-switch" in calls) == (state == "unpacked")
    assert machine.left() == []


def test_what_failed_half_way_is_disabled_as_well(machine: Machine) -> None:
    done = machine.setup(STUB_EXIT="100")
    assert done.returncode == 100
    assert machine.calls()[-1] == DISABLED
    assert machine.left() == []


def test_a_database_for_tests_is_installed_and_does_not_start(machine: Machine) -> None:
    machine.plan("mariadb-client (10.11 Debian:12 [all])", "mariadb-server (10.11 Debian:12 [all])")
    done = machine.setup("odl", script="setup-openstack.sh")
    assert done.returncode == 0, done.stderr
    assert [c for c in machine.calls() if not c.startswith("apt-get")] == [
        "policy 101",
        "systemctl --quiet disable mariadb-server.service",
    ]
    assert machine.left() == []
    assert machine.setup("odl", script="setup-openstack.sh").stdout == "setup: ready\n"


def test_what_a_cloud_runs_on_is_installed_and_does_not_start(machine: Machine) -> None:
    wanted = (
        "busybox",
        "dnsmasq-base",
        "erlang-base",
        "iptables",
        "mariadb-client",
        "mariadb-server",
        "rabbitmq-server",
    )
    machine.plan(*(f"{package} (1 Debian:12 [all])" for package in wanted))
    done = machine.setup("cloud", script="setup-openstack.sh")
    assert done.returncode == 0, done.stderr
    disabled = [call for call in machine.calls() if call.startswith("systemctl")]
    assert disabled == [
        f"systemctl --quiet disable {package}.service"
        for package in ("erlang-base", "mariadb-server", "rabbitmq-server")
    ]
    assert machine.left() == []
    assert machine.setup("cloud", script="setup-openstack.sh").stdout == "setup: ready\n"
