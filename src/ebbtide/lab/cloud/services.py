"""The services of a cloud in a lab: how each is configured, made and started.

What is set here is what an installation guide of OpenStack sets; what differs is small: one worker each, and a nova-compute that counts as
down after 20 seconds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..commands import run
from ..lab import Lab
from ..namespace import command_in
from .database import Database
from .files import Files, Settings, environment
from .queue import Queue

KEYSTONE, PLACEMENT, GLANCE, NEUTRON, NOVA = 5000, 8778, 9292, 9696, 8774
IDENTITY = f"http://127.0.0.1:{KEYSTONE}/v3"
REGION = "RegionOne"
PHYSICAL = "physnet1"
#: What Neutron would count.
_COUNTED = ("network", "subnet", "port", "router", "floatingip", "security_group", "security_group_rule")
#: Seconds that making a database takes at most.
_MAKING = 300.0


class Web(NamedTuple):
    """A service that answers HTTP: its port, its WSGI module, and what it is told by its environment."""

    name: str
    port: int
    module: str
    environment: Mapping[str, str]


class Services:
    """All of one cloud."""

    def __init__(self, lab: Lab, files: Files, database: Database) -> None:
        self._lab, self._files, self._database = lab, files, database
        self.venv = environment()
        self._with_agents = False

    # --- configuration ---

    def _account(self, user: str) -> dict[str, object]:
        """How a service says who it is."""
        return {
            "auth_type": "password",
            "auth_url": IDENTITY,
            "username": user,
            "password": self._files.password,
            "project_name": "service",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
            "region_name": REGION,
        }

    def _checked(self, user: str) -> dict[str, object]:
        """How a service finds out who asks it."""
        return self._account(user) | {"www_authenticate_uri": IDENTITY, "service_token_roles_required": True}

    def _common(self, name: str) -> dict[str, object]:
        return {"state_path": self._files.folder(name), "transport_url": Queue.url}

    def _paste(self, service: str, file: str) -> Path:
        """Its pipeline, as it comes with it."""
        target = self._files.etc / service / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.venv / "etc" / service / file, target)
        return target

    def _locks(self, name: str) -> dict[str, object]:
        return {"lock_path": self._files.folder(name, "lock")}

    def configure(self) -> None:
        """Write what all of them read."""
        keys = self._files.folder("keystone", "keys")
        self._files.settings(
            "keystone",
            "keystone.conf",
            {
                "database": {"connection": self._database.url("keystone")},
                "fernet_tokens": {"key_repository": keys / "fernet"},
                "credential": {"key_repository": keys / "credential"},
            },
        )
        self._files.settings(
            "placement",
            "placement.conf",
            {
                "placement_database": {"connection": self._database.url("placement")},
                "api": {"auth_strategy": "keystone"},
                "keystone_authtoken": self._checked("placement"),
            },
        )
        self._glance()
        self._neutron()
        self._nova()

    def _glance(self) -> None:
        images = self._files.folder("glance", "images")
        self._files.settings(
            "glance",
            "glance-api.conf",
            {
                "DEFAULT": {
                    "enabled_backends": "here:file",
                    "bind_host": "127.0.0.1",
                    "enabled_import_methods": "[]",
                },
                "database": {"connection": self._database.url("glance")},
                "glance_store": {"default_backend": "here"},
                "here": {"filesystem_store_datadir": images},
                "os_glance_staging_store": {"filesystem_store_datadir": self._files.folder("glance", "staging")},
                "os_glance_tasks_store": {"filesystem_store_datadir": self._files.folder("glance", "tasks")},
                "keystone_authtoken": self._checked("glance"),
                "paste_deploy": {"flavor": "keystone"},
                "oslo_concurrency": self._locks("glance"),
            },
        )
        self._paste("glance", "glance-api-paste.ini")

    def _neutron(self) -> None:
        paste = self._paste("neutron", "api-paste.ini")
        self._files.settings(
            "neutron",
            "neutron.conf",
            {
                "DEFAULT": self._common("neutron")
                | {
                    "api_paste_config": paste,
                    "core_plugin": "ml2",
                    "service_plugins": "ebbtide-router",
                    "auth_strategy": "keystone",
                    # Without these workers its API gives no network to an agent either.
                    "rpc_workers": int(self._with_agents),
                    "rpc_state_report_workers": int(self._with_agents),
                    "notify_nova_on_port_status_changes": True,
                    "notify_nova_on_port_data_changes": True,
                    "dns_domain": "cloud.example.",
                },
                "nova": self._account("nova"),
                "placement": self._account("placement"),
                "keystone_authtoken": self._checked("neutron"),
                "database": {"connection": self._database.url("neutron")},
                "oslo_concurrency": self._locks("neutron"),
                "oslo_messaging_notifications": {"driver": "noop"},
                "ml2": {
                    "type_drivers": "flat,vlan,vxlan",
                    "tenant_network_types": "vxlan",
                    "mechanism_drivers": "ebbtide",
                    "extension_drivers": "port_security",
                },
                "quotas": dict.fromkeys((f"quota_{kind}" for kind in _COUNTED), -1),
                "ml2_type_vxlan": {"vni_ranges": "70000:99999"},
                "ml2_type_flat": {"flat_networks": "*"},
                "ebbtide": {"url": "http://127.0.0.1:8181", "dhcp_agents": self._with_agents},
            },
        )

    def _nova(self) -> None:
        paste = self._paste("nova", "api-paste.ini")
        shared: dict[str, Mapping[str, object]] = {
            "DEFAULT": self._common("nova")
            | {
                "my_ip": "127.0.0.1",
                "report_interval": 5,
                "service_down_time": 20,
                "osapi_compute_workers": 1,
                "max_concurrent_live_migrations": 4,
                "vif_plugging_timeout": 30,
                "vif_plugging_is_fatal": True,
            },
            "api": {"auth_strategy": "keystone"},
            "keystone_authtoken": self._checked("nova"),
            "service_user": self._account("nova") | {"send_service_user_token": True},
            "placement": self._account("placement"),
            "neutron": self._account("neutron"),
            "glance": {"api_servers": f"http://127.0.0.1:{GLANCE}"},
            "oslo_concurrency": self._locks("nova"),
            "oslo_messaging_notifications": {"driver": "noop"},
            "vnc": {"enabled": False},
            "conductor": {"workers": 1},
            "scheduler": {"workers": 1},
            "cinder": {"os_region_name": REGION},
            "quota": dict.fromkeys(("instances", "cores", "ram"), -1),
        }
        databases: dict[str, Mapping[str, object]] = {
            "api_database": {"connection": self._database.url("nova_api")},
            "database": {"connection": self._database.url("nova")},
            "wsgi": {"api_paste_config": paste},
        }
        self._files.settings("nova", "nova.conf", shared | databases)
        # A nova-compute has no business with databases, and complains about their settings.
        self._files.settings("nova", "compute.conf", shared)

    def _compute(self, host: str) -> Path:
        """What the nova-compute of one host reads besides."""
        folder = self._files.folder("nova", host)
        own: Settings = {
            "DEFAULT": {
                "host": host,
                "state_path": folder,
                "instances_path": self._files.folder("nova", host, "instances"),
                "compute_driver": "ebbtide_lab.LabDriver",
            },
            "ebbtide_lab": {"name": self._lab.name, "directory": self._lab.site.directory},
        }
        return self._files.settings("nova", f"{host}.conf", own)

    def _dhcp(self, host: str) -> Path:
        """What the DHCP agent of one host reads; it is root there, and asks nobody to be it."""
        socket = self._lab.compute(host).directory / "db.sock"
        own: Settings = {
            "DEFAULT": self._common("neutron")
            | {
                "host": host,
                "state_path": self._files.folder("neutron", f"dhcp-{host}"),
                "transport_url": Queue.url_of_computes,
                "interface_driver": "openvswitch",
                # Of a call that was made before anybody listened.
                "rpc_response_timeout": 5,
            },
            "OVS": {"ovsdb_connection": f"unix:{socket}"},
            "AGENT": {"root_helper": "env", "report_interval": 5},
            "oslo_concurrency": self._locks(f"dhcp-{host}"),
        }
        return self._files.settings("neutron", f"dhcp-{host}.conf", own)

    def let_agents(self, *, serve: bool) -> None:
        """Whether networks are given to DHCP agents, from Neutron's next start on. They speak to the worker neutron-rpc."""
        self._with_agents = serve
        self._neutron()

    # --- their databases ---

    def command(self, *words: object, deadline: float = _MAKING, env: Mapping[str, str] | None = None) -> str:
        """A command of OpenStack's, in the control namespace; its output."""
        inner = [str(self.venv / "bin" / str(words[0])), *map(str, words[1:])]
        whole = {**os.environ, "PATH": f"{self.venv / 'bin'}:{os.environ['PATH']}", **(env or {})}
        return run(command_in(self._lab.control_namespace, inner), env=whole, deadline=deadline)

    def make_keystone(self) -> None:
        """Its tables, keys and first account."""
        file = ["--config-file", self._files.etc / "keystone" / "keystone.conf"]
        owner = ["--keystone-user", "root", "--keystone-group", "root"]
        self.command("keystone-manage", *file, "db_sync")
        for kind in ("fernet", "credential"):
            self._files.folder("keystone", "keys", kind).chmod(0o700)
            self.command("keystone-manage", *file, f"{kind}_setup", *owner)
        urls = [f"--bootstrap-{kind}-url={IDENTITY}" for kind in ("admin", "internal", "public")]
        secret = {"OS_BOOTSTRAP_PASSWORD": self._files.password}
        self.command("keystone-manage", *file, "bootstrap", f"--bootstrap-region-id={REGION}", *urls, env=secret)

    def make_glance(self) -> None:
        """Its tables."""
        self.command("glance-manage", "--config-file", self._files.etc / "glance" / "glance-api.conf", "db_sync")

    def make_placement(self) -> None:
        """Its tables."""
        self.command(
            "placement-manage", "--config-file", self._files.etc / "placement" / "placement.conf", "db", "sync"
        )

    def make_neutron(self) -> None:
        """Its tables, and those of our driver."""
        self.command(
            "neutron-db-manage", "--config-file", self._files.etc / "neutron" / "neutron.conf", "upgrade", "heads"
        )

    def make_nova(self) -> None:
        """Its tables, and its one cell."""
        file = ["--config-file", self._files.etc / "nova" / "nova.conf"]
        self.command("nova-manage", *file, "api_db", "sync")
        self.command(
            "nova-manage", *file, "cell_v2", "map_cell0", "--database_connection", self._database.url("nova_cell0")
        )
        self.command("nova-manage", *file, "cell_v2", "create_cell", "--name", "cell1")
        self.command("nova-manage", *file, "db", "sync")

    def discover(self) -> None:
        """Have Nova take in hosts that are new."""
        file = self._files.etc / "nova" / "nova.conf"
        self.command("nova-manage", "--config-file", file, "cell_v2", "discover_hosts")

    def make_accounts(self) -> None:
        """The services' own accounts and endpoints; Keystone answers by now."""
        ports = {"placement": PLACEMENT, "glance": GLANCE, "neutron": NEUTRON, "nova": NOVA}
        listed = [f"{name}={port}" for name, port in ports.items()]
        secret = {"EBBTIDE_CLOUD_PASSWORD": self._files.password}
        self.command("python", "-m", "ebbtide.lab.cloud.accounts", IDENTITY, REGION, *listed, env=secret)

    # --- running ---

    def web(self) -> dict[str, Web]:
        """Services that answer HTTP."""
        etc = self._files.etc
        nova = {"OS_NOVA_CONFIG_DIR": f"{etc}/nova", "OS_NOVA_CONFIG_FILES": "api-paste.ini;nova.conf"}
        neutron = {"OS_NEUTRON_CONFIG_DIR": f"{etc}/neutron", "OS_NEUTRON_CONFIG_FILES": "neutron.conf"}
        found = (
            Web("keystone", KEYSTONE, "keystone.wsgi.api", {"OS_KEYSTONE_CONFIG_DIR": f"{etc}/keystone"}),
            Web("placement", PLACEMENT, "placement.wsgi.api", {"OS_PLACEMENT_CONFIG_DIR": f"{etc}/placement"}),
            Web("glance", GLANCE, "glance.wsgi.api", {"OS_GLANCE_CONFIG_DIR": f"{etc}/glance"}),
            Web("neutron", NEUTRON, "neutron.wsgi.api", neutron),
            Web("nova-api", NOVA, "nova.wsgi.osapi_compute", nova),
        )
        return {each.name: each for each in found}

    def workers(self) -> dict[str, list[str]]:
        """Services that do not, by name: their commands; `neutron-rpc` has something to do only where there are agents."""
        nova = f"--config-file={self._files.etc}/nova/nova.conf"
        neutron = f"--config-file={self._files.etc}/neutron/neutron.conf"
        return {
            "nova-conductor": ["nova-conductor", nova],
            "nova-scheduler": ["nova-scheduler", nova],
            "neutron-workers": ["neutron-periodic-workers", neutron],
            "neutron-rpc": ["neutron-rpc-server", neutron],
        }

    def start(self, name: str) -> None:
        """Start one of them, by name; `compute-HOST` is the nova-compute of a host, `dhcp-HOST` its DHCP agent."""
        kind, _, host = name.partition("-")
        if kind == "compute":
            files = [f"--config-file={self._files.etc}/nova/compute.conf", f"--config-file={self._compute(host)}"]
            self._spawn(name, ["python", "-m", "ebbtide.lab.cloud.compute", *files], {})
        elif kind == "dhcp":
            # It makes namespaces of the same names on each host, and starts what outlives it: both are its own here, and end with it.
            apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
            command = [str(self.venv / "bin" / "neutron-dhcp-agent"), f"--config-file={self._dhcp(host)}"]
            own = 'mount -t tmpfs netns /run/netns && exec "$@"'
            self._lab.spawn(f"cloud-{name}", [*apart, own, "sh", *command], where=host, env=self._own({}))
        elif name in self.workers():
            self._spawn(name, self.workers()[name], {})
        else:
            web = self.web()[name]
            options = [f"--http-socket=127.0.0.1:{web.port}", f"--module={web.module}:application", "--master"]
            options += [
                "--processes=1",
                "--threads=4",
                "--enable-threads",
                "--lazy-apps",
                "--die-on-term",
                "--need-app",
            ]
            # Kept connections are reset by uwsgi, which clients take for failures.
            self._spawn(
                name, ["uwsgi", *options, "--buffer-size=65535", "--add-header=Connection: close"], web.environment
            )

    def _own(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"PATH": f"{self.venv / 'bin'}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1", **more}

    def _spawn(self, name: str, command: list[str], more: Mapping[str, str]) -> None:
        self._lab.spawn(f"cloud-{name}", [str(self.venv / "bin" / command[0]), *command[1:]], env=self._own(more))

    def stop(self, name: str) -> None:
        """End one of them, its children too."""
        self._lab.end_spawned(f"cloud-{name}")
