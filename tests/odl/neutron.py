"""Neutron 22 with networking-odl, as it comes, in a lab's control namespace: configured, started, and asked over its REST interface."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from ebbtide.errors import NotReady
from ebbtide.lab import Lab, wait_until
from ebbtide.lab import processes as lab_processes
from ebbtide.lab.cloud.database import Database
from ebbtide.lab.cloud.files import Files
from ebbtide.lab.commands import run
from ebbtide.lab.namespace import command_in

VENV = Path(__file__).parents[2] / ".venv-odl"
PORT = 9696
#: Seconds without a heartbeat after which Neutron calls an agent down.
DOWN_TIME = 6
#: Nobody is asked who it is (auth_strategy = noauth): who asks says so.
_ADMIN = {"X-User-Id": "admin", "X-Project-Id": "p1", "X-Roles": "admin", "Content-Type": "application/json"}
_NAME = "neutron"
#: Kinds of Neutron's REST interface whose paths differ from those of the controller.
PATHS = {
    "security-groups": "security-groups",
    "security-group-rules": "security-group-rules",
    "bgpvpns": "bgpvpn/bgpvpns",
}


class Refused(Exception):
    """Neutron said no."""


class Neutron:
    """One neutron-server. Its database outlives it."""

    def __init__(self, lab: Lab, trusted: Path) -> None:
        self.lab, self._trusted = lab, trusted
        self.files = Files(lab)
        self.files.make()
        self.database = Database(lab, self.files.folder("database"), self.files.password)
        self.websockets = False

    def make(self) -> None:
        """Its database."""
        self.database.start()
        self.database.make(["neutron"])
        self._configure()
        upgrade = [f"{VENV}/bin/neutron-db-manage", *self._options(), "upgrade", "heads"]
        run(command_in(self.lab.control_namespace, upgrade), env=self._environment(), deadline=120)

    def _environment(self) -> dict[str, str]:
        # It has no option for whom to trust: these are those of requests, and of its websockets.
        trust = dict.fromkeys(("REQUESTS_CA_BUNDLE", "WEBSOCKET_CLIENT_CA_BUNDLE"), str(self._trusted))
        return {**os.environ, "PATH": f"{VENV}/bin:{os.environ['PATH']}", **trust}

    def _options(self) -> list[str]:
        return ["--config-file", str(self.files.etc / "neutron" / "neutron.conf")]

    def _configure(self) -> None:
        folder = self.files.etc / "neutron"
        folder.mkdir(exist_ok=True)
        shutil.copyfile(VENV / "etc" / "neutron" / "api-paste.ini", folder / "api-paste.ini")
        provider = "BGPVPN:OpenDaylight:networking_odl.bgpvpn.odl_v2.OpenDaylightBgpvpnDriver:default"
        settings: Mapping[str, Mapping[str, object]] = {
            "DEFAULT": {
                "api_paste_config": folder / "api-paste.ini",
                "auth_strategy": "noauth",
                "core_plugin": "ml2",
                "service_plugins": "odl-router_v2,bgpvpn",
                "transport_url": "fake://",
                "state_path": self.files.folder("neutron"),
                "bind_host": "127.0.0.1",
                "bind_port": PORT,
                "api_workers": 0,
                "rpc_workers": 0,
                "rpc_state_report_workers": 0,
                "agent_down_time": DOWN_TIME,
                "notify_nova_on_port_status_changes": False,
                "notify_nova_on_port_data_changes": False,
            },
            "database": {"connection": self.database.url("neutron")},
            "oslo_concurrency": {"lock_path": self.files.folder("neutron", "lock")},
            "oslo_messaging_notifications": {"driver": "noop"},
            "service_providers": {"service_provider": provider},
            "quotas": dict.fromkeys(("quota_network", "quota_subnet", "quota_port"), -1),
            "ml2": {
                "type_drivers": "flat,vlan,vxlan",
                "tenant_network_types": "vxlan",
                "mechanism_drivers": "opendaylight_v2",
                "extension_drivers": "port_security",
            },
            "ml2_type_vxlan": {"vni_ranges": "70000:79999"},
            "ml2_type_flat": {"flat_networks": "*"},
            "ml2_odl": {
                "url": "https://127.0.0.1:8181/controller/nb/v2/neutron",
                "username": "admin",
                "password": "admin",
                "port_binding_controller": "pseudo-agentdb-binding",
                "enable_websocket_pseudo_agentdb": self.websockets,
                # What networking-odl does each half minute, and each five minutes, is due sooner here; so is what a killed one was about
                # to say, which it would wait with for 100 s.
                "processing_timeout": 12,
                "restconf_poll_interval": 2,
                "maintenance_interval": 8,
                "sync_timeout": 2,
                "odl_features_retry_interval": 1,
            },
        }
        self.files.settings("neutron", "neutron.conf", settings)

    # --- running ---

    def start(self, wait: bool = True) -> None:
        """Start it; `wait`: until it answers, for which the controller has to."""
        self._configure()
        self.lab.spawn(_NAME, [f"{VENV}/bin/neutron-server", *self._options()], env=self._environment())
        if wait:
            self.wait_up()

    def wait_up(self) -> None:
        wait_until(self._answers, "Neutron to answer", 60, every=0.1)

    def _answers(self) -> bool:
        try:
            self.ask("GET", "networks?fields=id")
            return True
        except (OSError, NotReady, HTTPException):
            return False

    def kill(self) -> None:
        """SIGKILL, to it and its workers."""
        pid = self.lab.spawned(_NAME)
        everybody = lab_processes.pids_in_namespaces([self.lab.control_namespace])
        lab_processes.kill([each for each in everybody if pid is not None and lab_processes.session_of(each) == pid])

    # --- REST ---

    def ask(self, method: str, path: str, body: object | None = None) -> Any:
        """One request; the decoded answer.

        Raises:
            Refused: the answer is an error.
        """
        connection = HTTPConnection("127.0.0.1", PORT, timeout=60)
        connection.sock = self.lab.connect("127.0.0.1", PORT)
        try:
            connection.request(method, f"/v2.0/{path}", None if body is None else json.dumps(body), _ADMIN)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status >= 400:
            raise Refused(f"{method} {path}: {answer.status} {text}")
        return json.loads(text) if text else None

    def make_one(self, kind: str, /, **said: Any) -> dict[str, Any]:
        """A new thing of a kind, as in the path: `networks`."""
        single = kind.rpartition("/")[2].replace("-", "_").removesuffix("s")
        made: dict[str, Any] = self.ask("POST", kind, {single: said})[single]
        return made

    def change(self, kind: str, name: str, /, **said: Any) -> dict[str, Any]:
        single = kind.rpartition("/")[2].replace("-", "_").removesuffix("s")
        made: dict[str, Any] = self.ask("PUT", f"{kind}/{name}", {single: said})[single]
        return made

    def delete(self, kind: str, name: str) -> None:
        self.ask("DELETE", f"{kind}/{name}")

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """Everything of a kind, by id."""
        (found,) = (v for k, v in self.ask("GET", kind).items() if not k.endswith("_links"))
        return {each["id"]: each for each in found}

    def port(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"ports/{name}")["port"]
        return found

    def agents(self) -> dict[str, dict[str, Any]]:
        """Each host's agent."""
        return {each["host"]: each for each in self.ask("GET", "agents?agent_type=ODL%20L2")["agents"]}

    def allowed(self, host: str) -> list[str]:
        """The types of networks whose ports may be bound on a host, as Neutron knows."""
        return list(self.agents()[host]["configurations"]["allowed_network_types"])

    # --- its journal ---

    def unsent(self) -> int:
        """Changes that the controller has not taken yet."""
        return int(self.database.ask("SELECT COUNT(*) FROM neutron.opendaylightjournal WHERE state <> 'completed'"))
