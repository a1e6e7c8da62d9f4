"""A Neutron with our driver, as it is run: its API, its workers, MariaDB, all in a lab's control namespace beside a controller."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from ebbtide.errors import EbbtideError, NotReady
from ebbtide.lab import CONTROLLER, Lab, processes, wait_until
from ebbtide.lab.cloud.database import Database
from ebbtide.lab.cloud.files import Files, environment
from ebbtide.lab.commands import CommandFailed, run
from ebbtide.lab.namespace import command_in
from tests.support.certificates import certificate, checked

NEUTRON, HTTP, NOVA = 9696, 8181, 8774
#: Seconds after which a worker that is silent loses its turn.
LEASE = 6
#: Seconds in which what changes is expected to arrive.
SOON = 20.0
TOKEN = "neutrons-own"
ROOT = "/controller/nb/v2/neutron"
#: Nobody is asked who it is (auth_strategy = noauth): who asks says so.
_ADMIN = {"X-User-Id": "admin", "X-Project-Id": "p1", "X-Roles": "admin"}
#: Kinds of the controller's documents that Neutron has.
KINDS = ("security-groups", "security-group-rules", "networks", "subnets", "routers", "ports", "floatingips")


class Refused(Exception):
    """Neutron, or the controller, said no."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status} {words}")
        self.status, self.words = status, words


def ask(connected: socket.socket, method: str, path: str, body: object | None, headers: Mapping[str, str]) -> Any:
    """One request over a connection; the decoded answer.

    Raises:
        Refused: the answer is an error.
    """
    connection = HTTPConnection("127.0.0.1", timeout=60)
    connection.sock = connected
    headers = {"Content-Type": "application/json", **headers}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    if answer.status >= 400:
        raise Refused(answer.status, text)
    return json.loads(text) if text else None


class Controller:
    """Ours, as a process of its own, as docs/openstack.md has it: by TLS, and asking for a token. With an `offset` it is another, which no
    compute knows."""

    def __init__(self, lab: Lab, name: str = "controller", offset: int = 0) -> None:
        self.lab, self.name, self._offset = lab, name, offset
        self._folder = lab.site.run_directory / f"{name}-rest"
        self._folder.mkdir()
        self.certificate, self._key = certificate(self._folder)
        self._users = self._folder / "users.toml"
        self._users.touch(0o600)
        self._users.write_text(f"[[token]]\nname = 'neutron'\nvalue = 'plain:{TOKEN}'\nroles = ['operate']\n")

    @property
    def options(self) -> dict[str, object]:
        """What Neutron's configuration says of it."""
        return {"url": f"https://127.0.0.1:{HTTP + self._offset}", "cacert": self.certificate, "token": TOKEN}

    def ask(self, method: str, path: str, body: object | None = None) -> Any:
        connected = checked(self.lab.connect("127.0.0.1", HTTP + self._offset), self.certificate)
        return ask(connected, method, path, body, {"Authorization": f"Bearer {TOKEN}"})

    def start(self) -> None:
        """Until it leads."""
        ovsdb, openflow = (f"ptcp:{port + self._offset}:{CONTROLLER}" for port in (6640, 6653))
        options = ["--state-dir", str(self.lab.site.run_directory / self.name), "--admission", "open"]
        options += ["--ovsdb-listen", ovsdb, "--openflow-listen", openflow]
        options += ["--http", f"127.0.0.1:{HTTP + self._offset}", "--log-format", "json"]
        options += [
            "--credentials",
            str(self._users),
            "--http-cert",
            str(self.certificate),
            "--http-key",
            str(self._key),
        ]
        self.lab.spawn(self.name, [sys.executable, "-m", "ebbtide", "controller", *options])
        wait_until(self._leads, "the controller to lead", 30, every=0.05)

    def kill(self) -> None:
        """SIGKILL."""
        self.lab.kill_spawned(self.name)

    def _leads(self) -> bool:
        try:
            return bool(self.ask("GET", "/api/v1/status")["leading"])
        except (OSError, EbbtideError, Refused):
            return False

    def told(self, kind: str) -> dict[str, dict[str, Any]]:
        """What it was told of a kind, by id."""
        (found,) = self.ask("GET", f"{ROOT}/{kind}").values()
        return {each["id"]: each for each in found}

    def status(self, port: str) -> str:
        """What it says of a port."""
        (found,) = self.ask("GET", f"/api/v1/neutron/ports?ids={port}")["ports"]
        return str(found["status"])

    def hosts(self, port: str) -> list[str]:
        """Where a port is plugged, and served."""
        (found,) = self.ask("GET", f"/api/v1/neutron/ports?ids={port}")["ports"]
        return list(found["hosts"])

    def scale_in(self, verb: str, *names: str) -> None:
        leaf = "recover-node-ids" if verb == "recover" else "scalein-node-ids"
        self.ask(
            "POST", f"/rests/operations/scalein-api:scalein-computes-{verb}", {"scalein-api:input": {leaf: list(names)}}
        )


class Neutron:
    """One Neutron. Its database outlives its processes."""

    def __init__(self, lab: Lab, controller: Controller) -> None:
        self.lab, self.venv, self._controller = lab, environment(), controller
        self.files = Files(lab)
        self.files.make()
        self.database = Database(lab, self.files.folder("database"), self.files.password)

    def make(self) -> None:
        """Its database, and ours in it."""
        self.database.start()
        self.database.make(["neutron"])
        self._configure()
        for project in ("neutron", "neutron-ebbtide"):
            self.command("neutron-db-manage", "--subproject", project, "upgrade", "heads")

    def _configure(self) -> None:
        paste = self.files.folder("etc", "neutron") / "api-paste.ini"
        shutil.copyfile(self.venv / "etc" / "neutron" / "api-paste.ini", paste)
        # Who asks without Keystone is an administrator, and not a service, as Nova is.
        rules = ("create_port_binding", "activate", "update_port:binding:profile")
        policy = self.files.write(paste.with_name("policy.json"), json.dumps(dict.fromkeys(rules, "role:admin")))
        settings: dict[str, dict[str, object]] = {
            "DEFAULT": {
                "api_paste_config": paste,
                "auth_strategy": "noauth",
                "core_plugin": "ml2",
                "service_plugins": "ebbtide-router",
                "transport_url": "fake://",
                "state_path": self.files.folder("neutron"),
                "rpc_workers": 0,
                "rpc_state_report_workers": 0,
                "notify_nova_on_port_status_changes": True,
                "notify_nova_on_port_data_changes": False,
                "send_events_interval": 1,
            },
            # Who listens there, if anybody does, is in the stories of statuses.
            "nova": {"auth_type": "none", "endpoint": f"http://127.0.0.1:{NOVA}/v2.1"},
            "database": {"connection": self.database.url("neutron")},
            "oslo_concurrency": {"lock_path": self.files.folder("neutron", "lock")},
            "oslo_policy": {"policy_file": policy},
            "oslo_messaging_notifications": {"driver": "noop"},
            "quotas": {f"quota_{kind.replace('-', '_').removesuffix('s')}": -1 for kind in KINDS},
            "ml2": {
                "type_drivers": "flat,vlan,vxlan",
                "tenant_network_types": "vxlan",
                "mechanism_drivers": "ebbtide",
                "extension_drivers": "port_security",
            },
            "ml2_type_vxlan": {"vni_ranges": "70000:99999"},
            "ml2_type_flat": {"flat_networks": "*"},
            "ml2_type_vlan": {"network_vlan_ranges": "physnet1:100:200"},
            "ebbtide": {
                **self._controller.options,
                "lease": LEASE,
                "hosts_interval": 1,
                "status_interval": 0.5,
                "compare_interval": 3600,
            },
        }
        self.file = self.files.settings("neutron", "neutron.conf", settings)

    def command(self, *words: object, deadline: float = 120.0) -> str:
        """A command of Neutron's, or ours; its output.

        Raises:
            CommandFailed: it ends with another code than 0.
        """
        name, *rest = map(str, words)
        inner = [str(self.venv / "bin" / name), f"--config-file={self.file}", *rest]
        return run(command_in(self.lab.control_namespace, inner), env=self._environment(), deadline=deadline)

    def script(self, text: str, deadline: float = 60.0) -> str:
        """A script of Python's in Neutron's environment, which is given the file of its configuration; its output.

        Raises:
            CommandFailed: it ends with another code than 0.
        """
        inner = [str(self.venv / "bin" / "python"), "-c", text, str(self.file)]
        return run(command_in(self.lab.control_namespace, inner), env=self._environment(), deadline=deadline)

    def sync(self, *options: str, alone: bool = False) -> tuple[int, str]:
        """neutron-ebbtide-sync: code, and what it says. `alone`: without the files of this Neutron."""
        files = [] if alone else [f"--config-file={self.file}"]
        inner = [str(self.venv / "bin" / "neutron-ebbtide-sync"), *files, *options]
        command = command_in(self.lab.control_namespace, inner)
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + (done.stderr if done.returncode == 2 else "")

    def _environment(self) -> dict[str, str]:
        own = {"OS_NEUTRON_CONFIG_DIR": str(self.file.parent), "OS_NEUTRON_CONFIG_FILES": self.file.name}
        return {**os.environ, "PATH": f"{self.venv / 'bin'}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1", **own}

    # --- running ---

    def start(self) -> None:
        """Its API."""
        options = [f"--http-socket=127.0.0.1:{NEUTRON}", "--module=neutron.wsgi.api:application", "--master"]
        options += ["--processes=1", "--threads=4", "--enable-threads", "--lazy-apps", "--die-on-term", "--need-app"]
        # Kept connections are reset by uwsgi, which clients take for failures.
        options += ["--buffer-size=65535", "--add-header=Connection: close"]
        self.lab.spawn("neutron", [str(self.venv / "bin" / "uwsgi"), *options], env=self._environment())
        wait_until(self._answers, "Neutron to answer", 60, every=0.1)

    def _answers(self) -> bool:
        try:
            self.ask("GET", "networks?fields=id")
            return True
        except (OSError, NotReady, HTTPException):
            return False

    def start_workers(self, name: str = "workers", by: Path | None = None, **options: object) -> None:
        """neutron-periodic-workers: one of them sends. `by`: the socket of their database, if not its own; `options`: of ours, other than
        Neutron's own."""
        own: dict[str, dict[str, object]] = {
            "DEFAULT": {"state_path": self.files.folder(name)},
            "database": {"connection": self.database.url("neutron", by)} if by else {},
            "ebbtide": options,
        }
        more = self.files.settings("neutron", f"{name}.conf", own)
        command = [str(self.venv / "bin" / "neutron-periodic-workers"), f"--config-file={self.file}"]
        self.lab.spawn(name, [*command, f"--config-file={more}"], env=self._environment())

    def start_far(self, by: Path) -> str:
        """Workers that reach their database by this socket; which of them sends."""
        before = self.holder()
        self.start_workers("far", by)
        wait_until(lambda: self.holder() not in (before, ""), "the far one to send", 60, every=0.1)
        return self.holder()

    def kill(self, name: str = "workers") -> None:
        """SIGKILL, to it and its children."""
        processes.kill(self._session(name))

    def signal(self, number: signal.Signals, name: str = "workers") -> None:
        """A signal, to it and its children."""
        for each in self._session(name):
            processes.send_signal(each, number)

    def _session(self, name: str) -> list[int]:
        pid = self.lab.spawned(name)
        everybody = processes.pids_in_namespaces([self.lab.control_namespace])
        return [each for each in everybody if pid is not None and processes.session_of(each) == pid]

    def stop(self, name: str = "workers") -> None:
        """As an operator stops it."""
        self.lab.end_spawned(name)

    # --- REST ---

    def ask(self, method: str, path: str, body: object | None = None) -> Any:
        return ask(self.lab.connect("127.0.0.1", NEUTRON), method, f"/v2.0/{path}", body, _ADMIN)

    def make_one(self, kind: str, /, **said: Any) -> dict[str, Any]:
        """A new thing of a kind, as in the path."""
        single = kind.replace("-", "_").removesuffix("s")
        made: dict[str, Any] = self.ask("POST", kind, {single: {"project_id": "p1", **said}})[single]
        return made

    def make_many(self, kind: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Several in one call."""
        several = kind.replace("-", "_")
        made: list[dict[str, Any]] = self.ask(
            "POST", kind, {several: [{"project_id": "p1", **each} for each in bodies]}
        )[several]
        return made

    def change(self, kind: str, name: str, /, **said: Any) -> dict[str, Any]:
        single = kind.replace("-", "_").removesuffix("s")
        made: dict[str, Any] = self.ask("PUT", f"{kind}/{name}", {single: said})[single]
        return made

    def delete(self, kind: str, name: str) -> None:
        self.ask("DELETE", f"{kind}/{name}")

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Everything of a kind, by id."""
        (found,) = (v for k, v in self.ask("GET", kind).items() if not k.endswith("_links"))
        return {each["id"]: each for each in found}

    def one(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any]
        (found,) = self.ask("GET", f"{kind}/{name}").values()
        return found

    def agents(self) -> dict[str, dict[str, Any]]:
        """Each host's agent."""
        return {each["host"]: each for each in self.ask("GET", "agents")["agents"]}

    def address_group(self) -> str:
        """One that was there before the driver; its id."""
        name = "aaaaaaaa-0000-4000-8000-000000000001"
        self.database.ask(
            "USE neutron",
            "INSERT INTO standardattributes (resource_type, revision_number) VALUES ('address_groups', 1)",
            "INSERT INTO address_groups (id, project_id, name, standard_attr_id)"
            f" SELECT '{name}', 'p1', 'friends', MAX(id) FROM standardattributes",
        )
        return name

    # --- the journal ---

    def fill(self, network: str, count: int) -> None:
        """So many ports in its database, each with its row of the journal: by hand, since its API makes five in a second."""
        port, numbers = "CONCAT(@site, '-', LPAD(HEX(seq), 12, '0'))", f"FROM seq_1_to_{count}"
        mac = "CONCAT('0e:00:00:', INSERT(INSERT(LPAD(HEX(seq), 6, '0'), 5, 0, ':'), 3, 0, ':'))"
        self.database.ask(
            "USE neutron",
            "SET @site = SUBSTRING(UUID(), 1, 23), @before = (SELECT MAX(id) + 1000 FROM standardattributes)",
            "START TRANSACTION",
            "INSERT INTO standardattributes (id, resource_type, revision_number, created_at, updated_at)"
            f" SELECT @before + seq, 'ports', 1, UTC_TIMESTAMP(), UTC_TIMESTAMP() {numbers}",
            "INSERT INTO ports (id, project_id, name, network_id, mac_address, admin_state_up, status, device_id, device_owner,"
            f" standard_attr_id) SELECT {port}, 'p1', '', '{network}', {mac}, 1, 'DOWN', '', '', @before + seq {numbers}",
            "INSERT INTO ml2_port_bindings (port_id, host, vnic_type, profile, vif_type, vif_details, status)"
            f" SELECT {port}, '', 'normal', '', 'unbound', '', 'ACTIVE' {numbers}",
            f"INSERT INTO portsecuritybindings (port_id, port_security_enabled) SELECT {port}, 0 {numbers}",
            "INSERT INTO ebbtide_journal (kind, object_id, tries, not_before, error)"
            f" SELECT 'ports', {port}, 0, 0, '' {numbers}",
            "COMMIT",
        )

    def spill(self) -> None:
        """Have all ports deleted, by hand too."""
        self.database.ask(
            "USE neutron",
            "INSERT INTO ebbtide_journal (kind, object_id, tries, not_before, error) SELECT 'ports', id, 0, 0, '' FROM ports",
            "DELETE a FROM standardattributes a JOIN ports p ON p.standard_attr_id = a.id",
        )

    def waiting(self) -> int:
        """Rows of the journal."""
        return int(self.database.ask("SELECT COUNT(*) FROM neutron.ebbtide_journal"))

    def locked(self) -> bool:
        """Whether somebody keeps the lease, or a row of the journal, from being changed."""
        try:
            self.database.ask(
                *(f"SELECT * FROM neutron.ebbtide_{each} FOR UPDATE NOWAIT" for each in ("lease", "journal"))
            )
        except CommandFailed:
            return True
        return False

    @contextmanager
    def begun(self, *statements: str) -> Iterator[None]:
        """Somebody has these statements in a transaction, and says nothing more."""
        with subprocess.Popen(
            [*self.database.client, "neutron"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client:
            assert client.stdin
            assert client.stdout
            client.stdin.write(";\n".join(["START TRANSACTION", *statements, "SELECT 'begun'", ""]).encode())
            client.stdin.flush()
            assert client.stdout.readline() == b"begun\n"
            yield
            client.kill()

    def holder(self) -> str:
        """Which worker sends."""
        return self.database.ask("SELECT owner FROM neutron.ebbtide_lease").strip()


class Deployment:
    """All of it."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.controller = lab, Controller(lab)
        self.neutron = Neutron(lab, self.controller)

    def add_compute(self, name: str, networks: str = "") -> None:
        """A compute, which Neutron calls nova-NAME. `networks`: what it says of physical ones, if not the usual."""
        compute = self.lab.add_compute(name, physical_network="physnet1")
        said = [f'other_config:provider_mappings="{networks}"'] if networks else []
        compute.vsctl("set", "Open_vSwitch", ".", f"external_ids:odl_os_hostconfig_hostid=nova-{name}", *said)
        compute.register()

    # --- waiting ---

    def wait(self, holds: Callable[[], bool], what: str, deadline: float = SOON) -> None:
        """Until something holds; of who does not answer nothing holds."""

        def asked() -> bool:
            try:
                return holds()
            except (OSError, HTTPException, EbbtideError, Refused, KeyError):
                return False

        wait_until(asked, what, deadline, every=0.1)

    def differences(self) -> dict[str, list[str]]:
        """Ids, by kind, which Neutron has and the controller was not told of, or the other way round; and ids whose name differs."""
        found = {}
        for kind in KINDS:
            told, so = self.controller.told(kind), self.neutron.all(kind)
            wrong = told.keys() ^ so.keys()
            wrong |= {i for i in told.keys() & so.keys() if told[i].get("name") != so[i].get("name")}
            if wrong:
                found[kind] = sorted(wrong)
        return found

    def wait_told(self, deadline: float = SOON) -> None:
        """Until the journal is empty, and both have the same."""
        try:
            self.wait(lambda: self.neutron.waiting() == 0 and not self.differences(), "all to be told", deadline)
        except NotReady:
            raise AssertionError((self.neutron.waiting(), self.differences())) from None

    def wait_status(self, port: str, status: str, deadline: float = SOON) -> None:
        """Until Neutron says so of a port."""
        self.wait(lambda: self.neutron.one("ports", port)["status"] == status, f"{port} to be {status}", deadline)

    # --- what stories begin with ---

    def network(self, cidr: str = "10.1.0.0/24", **said: Any) -> tuple[str, str]:
        """A network with a subnet: their ids."""
        network = self.neutron.make_one("networks", name="net", **said)["id"]
        subnet = self.neutron.make_one("subnets", network_id=network, ip_version=4, cidr=cidr)["id"]
        return network, subnet

    def port(self, network: str, host: str = "", **said: Any) -> dict[str, Any]:
        """A port; on a host, as Nova asks for it."""
        if host:
            said |= {"binding:host_id": host, "device_owner": "compute:nova", "device_id": str(uuid.uuid4())}
        return self.neutron.make_one("ports", network_id=network, **said)

    def plug(self, port: dict[str, Any], compute: str, prefix: int = 24) -> str:
        """Its VM, on a compute: the VM's name."""
        address, name = port["fixed_ips"][0]["ip_address"], f"vm{port['id'][:8]}"
        self.lab.add_vm(name, compute, port["mac_address"], f"{address}/{prefix}", port["id"])
        return name

    def clear(self) -> None:
        """Everything goes from Neutron, and by that from the controller."""
        neutron = self.neutron
        for each in neutron.all("floatingips"):
            neutron.delete("floatingips", each)
        for each in neutron.all("routers"):
            neutron.change("routers", each, routes=[], external_gateway_info={})
        for each, port in neutron.all("ports").items():
            if port["device_owner"].startswith("network:router_interface"):
                neutron.ask("PUT", f"routers/{port['device_id']}/remove_router_interface", {"port_id": each})
            else:
                neutron.delete("ports", each)
        for kind in ("routers", "networks", "security-groups"):
            for each in neutron.all(kind):
                neutron.delete(kind, each)
