"""One compute's OVSDB: what it says of itself, the view of its ports, and the rows that we write into it.

Written: br-int (with its controller, its external_ids `ebbtide-*` and `tombstoned`), and tunnel ports on it. Nothing else of the
host's configuration is touched. Each transaction waits on our term in br-int, so that a leader that was overtaken writes nothing.
Reading is pure (`claim`, `view`, `bridge`); writing goes by `Rows`, which builds one transaction.

Longer than 400 lines: whatever we know of a compute's database is here, and only here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from immutables import Map

from ebbtide.compile import ledger
from ebbtide.compile.fragment import TunnelRow
from ebbtide.decide.brake import Stamp
from ebbtide.decide.lifecycle import Claim
from ebbtide.model import teps
from ebbtide.model.observed import Datapath, Interface, View
from ebbtide.ovsdb.conditions import add, by_uuid, delete_from, eq, includes, insert_into
from ebbtide.ovsdb.replica import Replica, RowChange, Watch
from ebbtide.ovsdb.schema import DatabaseSchema
from ebbtide.ovsdb.transaction import Transaction
from ebbtide.ovsdb.values import Uuid
from ebbtide.runtime.providers import BRIDGE, PROVIDER, Provider, ProviderRows, concerns, ports_of

DATABASE = "Open_vSwitch"
PROTOCOLS = frozenset({"OpenFlow10", "OpenFlow13", "OpenFlow14"})
STORE, REVISION, TERM, PEER, TOMBSTONED = (
    "ebbtide-store",
    "ebbtide-revision",
    "ebbtide-term",
    "ebbtide-peer",
    "tombstoned",
)
FIRST_TUNNEL = 10_000
MAX_WEIGHT = 1_000_000
TUNNEL_TYPES = ("vxlan", "geneve", "gre")
HELD = "ebbtide-held"
BRAKE = "ebbtide-brake"
_KEY = "flow-restore-wait"
_WATCHES = {
    "Open_vSwitch": [
        "bridges",
        "external_ids",
        "other_config",
        "datapath_types",
        "ovs_version",
        "dpdk_initialized",
        "cur_cfg",
        "next_cfg",
    ],
    "Bridge": [
        "name",
        "ports",
        "controller",
        "external_ids",
        "other_config",
        "datapath_id",
        "datapath_type",
        "fail_mode",
        "protocols",
        "flood_vlans",
    ],
    "Port": ["name", "interfaces"],
    "Interface": [
        "name",
        "type",
        "ofport",
        "error",
        "external_ids",
        "options",
        "bfd",
        "bfd_status",
        "mac_in_use",
        "mtu",
        "ofport_request",
        "link_state",
    ],
    "Controller": ["target", "max_backoff", "inactivity_probe", "connection_mode", "is_connected", "status"],
}

_NEWER = frozenset({"dpdk_initialized"})


def replica(schema: DatabaseSchema) -> Replica:
    """The part of a compute's database that we read."""
    there = {table: schema.table(table).columns for table in _WATCHES}
    watches = {
        # Open vSwitch before 2.10 does not have every column.
        table: Watch(tuple(c for c in columns if c in there[table] or c not in _NEWER))
        for table, columns in _WATCHES.items()
    }
    return Replica(schema, watches)


class Bridge(msgspec.Struct, frozen=True):
    """br-int as it is now."""

    uuid: Uuid
    row: Mapping[str, Any]
    controllers: tuple[Mapping[str, Any], ...]

    @property
    def stamp(self) -> Stamp:
        """What it carries of us."""
        ids = self.row["external_ids"]
        return Stamp(ids.get(STORE, ""), _number(ids.get(REVISION)), _number(ids.get(TERM)))

    @property
    def dpid(self) -> int:
        """The datapath id in force, or 0."""
        return int(self.row["datapath_id"] or "0", 16)


def held_back(own: Bridge) -> bool:
    """Whether the brake's third question has held something back here, and nobody has approved it yet."""
    return bool(own.row["external_ids"].get(BRAKE) == "held")


def _number(text: str | None) -> int:
    # A hand may have written anything; beyond this it is no revision of any store.
    return int(text) if text and text.isdecimal() and len(text) < 19 else 0


def _weight(text: str | None) -> int:
    return min(_number(text), MAX_WEIGHT) if text and text.isdecimal() else 1


def _signed(text: str | None) -> int:
    value = _number(text.lstrip("+-")) if text else 0
    return max(-MAX_WEIGHT, min(MAX_WEIGHT, -value if text and text.startswith("-") else value))


def root(tables: Replica) -> tuple[Uuid, Mapping[str, Any]] | None:
    """Uuid and content of the one Open_vSwitch row."""
    for uuid, row in tables.rows("Open_vSwitch").items():
        return uuid, row
    return None


def bridge(tables: Replica) -> Bridge | None:
    """br-int, if it is there."""
    for uuid, row in tables.rows("Bridge").items():
        if row["name"] == BRIDGE:
            rows = (tables.row("Controller", c) for c in row["controller"])
            return Bridge(uuid, row, tuple(r for r in rows if r is not None))
    return None


def claim(tables: Replica, certificate: str = "") -> Claim | None:
    """What the compute says of itself; None while it says nothing yet."""
    found = root(tables)
    if found is None:
        return None
    uuid, row = found
    ids, config = row["external_ids"], row["other_config"]
    own = bridge(tables)
    described = own.row["other_config"].get("dp-desc", "") if own else ""
    hostname = ids.get("hostname", "")
    system_id = ids.get("system-id", "")
    mappings = config.get("provider_mappings", "")
    gateway = config.get("ebbtide-gateway", "false") == "true"
    pairs = tuple(sorted(tuple(p.split(":", 1)) for p in mappings.split(",") if ":" in p))
    return Claim(
        name=described or hostname or system_id or uuid,
        system_id=system_id,
        ovs_uuid=uuid,
        hostname=hostname,
        # As networking-odl has it written there.
        nova_host=ids.get("odl_os_hostconfig_hostid", ""),
        teps=tuple(
            dict.fromkeys(teps.canonical(t.strip()) for t in config.get("local_ip", "").split(",") if t.strip())
        ),
        dpid=own.dpid if own else 0,
        zone=ids.get("transport-zone", "default-transport-zone"),
        provider_mappings=pairs,
        gateway=gateway,
        held_start=gateway and config.get("ebbtide-held-start", "false") == "true",
        weight=_weight(config.get("ebbtide-weight")),
        base=_signed(ids.get("odl_base_weight")),
        certificate=certificate,
        macs=_own_macs(tables),
    )


def concerns_claim(tables: Replica, changes: Iterable[RowChange]) -> bool:
    """Whether the claim may differ. Most changes are of a VM's interface, and to read those of all for each is dear."""
    return any(
        (c.table == "Open_vSwitch" and c.touches("external_ids", "other_config"))
        or (c.table == "Bridge" and c.touches("name", "datapath_id", "other_config"))
        or (c.table == "Interface" and c.touches("name", "mac_in_use") and _is_own(tables, c))
        for c in changes
    )


def _is_own(tables: Replica, change: RowChange) -> bool:
    bridges = _bridges(tables)
    return any(row is not None and row["name"] in bridges for row in (change.old, change.new))


def _bridges(tables: Replica) -> set[str]:
    return {row["name"] for row in tables.rows("Bridge").values()}


def _own_macs(tables: Replica) -> tuple[str, ...]:
    """The MACs of the host itself: of each bridge's own interface. Those of taps are a tenant's affair, and change."""
    bridges = _bridges(tables)
    own = (row for row in tables.rows("Interface").values() if row["name"] in bridges)
    return tuple(sorted({row["mac_in_use"].lower() for row in own if row["mac_in_use"]}))


def interfaces(tables: Replica) -> Iterable[tuple[Uuid, Uuid, Mapping[str, Any]]]:
    """Port uuid, interface uuid and interface row of everything on br-int."""
    own = bridge(tables)
    return ports_of(tables, own.row) if own else ()


def view(tables: Replica, live: bool, tep: Callable[[int], str] = lambda _: "") -> View:
    """The compute's ports. Two interfaces with one iface-id: the lowest realised port number counts.

    Two tunnels to one compute, whose address has changed: the one to where it is now, `tep(number)`.
    """
    ports: dict[str, Interface] = {}
    tunnels: dict[int, Interface] = {}
    providers: dict[str, Interface] = {}
    for _, _, row in interfaces(tables):
        ids, seen = row["external_ids"], _interface(row)
        if PROVIDER in ids:
            providers[ids[PROVIDER]] = seen
        elif PEER in ids:
            peer = int(ids[PEER]) if seen.ofport and ids[PEER].isdecimal() else 0
            if peer and (peer not in tunnels or _far_end(row) == tep(peer)):
                tunnels[peer] = seen
        elif seen.iface_id:
            other = ports.get(seen.iface_id)
            if other is None or not other.ofport or (seen.ofport and seen.ofport < other.ofport):
                ports[seen.iface_id] = seen
    return View(live, Map(ports), Map(tunnels), datapath(tables), Map(providers))


def _interface(row: Mapping[str, Any]) -> Interface:
    ids = row["external_ids"]
    # Of a device that is gone, as that of an agent that was killed, the userspace datapath keeps the port.
    gone = ids.get("iface-id") == ledger.AGENT_IFACE_ID and row["link_state"] == "down"
    ofport = 0 if gone else row["ofport"] or 0
    return Interface(
        row["name"],
        ofport if 0 < ofport < 0xFF00 else 0,
        iface_id=ids.get("iface-id", ""),
        mac=ids.get("attached-mac", ""),
        error=row["error"] or "",
        type=row["type"],
        fresh=row["ofport"] is None and not row["error"],
        up=_is_up(row),
        watched=row["bfd"].get("enable") == "true",
        seen=_was_up(row),
    )


def _far_end(row: Mapping[str, Any]) -> str:
    """Where a tunnel leads, in the one spelling: Open vSwitch keeps what it was given."""
    return teps.canonical(row["options"].get("remote_ip", ""))


def datapath(tables: Replica) -> Datapath:
    """What carries the compute's packets. br-int with an empty datapath_type is on "system" (ovs-vswitchd.conf.db(5))."""
    own, found = bridge(tables), root(tables)
    row = found[1] if found is not None else None
    return Datapath(
        kind=(own.row["datapath_type"] or "system") if own is not None else "",
        version=(row["ovs_version"] or "") if row is not None else "",
        offload=row is not None and row["other_config"].get("hw-offload") == "true",
        dpdk=row is not None and bool(row.get("dpdk_initialized")),
    )


def _is_up(row: Mapping[str, Any]) -> bool:
    """Whether BFD is armed there and sees the far end."""
    return bool(row["bfd"].get("enable") == "true" and row["bfd_status"].get("state") == "up")


def _was_up(row: Mapping[str, Any]) -> bool:
    """Whether BFD has come up there since it was armed: the switch counts the changes (ovs-vswitchd.conf.db(5), flap_count)."""
    return _is_up(row) or bool(row["bfd"].get("enable") == "true" and row["bfd_status"].get("flap_count", "0") != "0")


def seen_by_bfd(tables: Replica) -> set[int]:
    """Numbers of the peers that this compute sees by BFD."""
    ids = (
        row["external_ids"].get(PEER, "") for _, _, row in interfaces(tables) if row["bfd_status"].get("state") == "up"
    )
    return {int(peer) for peer in ids if peer.isdecimal()}


def concerns_ports(changes: Iterable[RowChange]) -> bool:
    """Whether the view may differ: the datapath, ports and interfaces, but for what BFD says of them other than up and down."""
    return any(
        c.table == "Port"
        or (c.table == "Open_vSwitch" and _carries(c.old) != _carries(c.new))
        or (c.table == "Interface" and _differs(c, "bfd_status"))
        or (c.table == "Bridge" and c.touches("ports", "datapath_type"))
        for c in changes
    )


def _carries(row: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """What the row of the whole switch tells of the datapath."""
    return (row["ovs_version"], row["other_config"].get("hw-offload"), row.get("dpdk_initialized")) if row else ()


def _differs(change: RowChange, but: str) -> bool:
    old, new = change.old, change.new
    return (
        old is None or new is None or _is_up(old) != _is_up(new) or any(old[k] != v for k, v in new.items() if k != but)
    )


_KEPT = {
    "Bridge": ("external_ids", "other_config", "fail_mode", "protocols", "controller"),
    "Controller": ("target", "max_backoff", "inactivity_probe", "connection_mode"),
    "Interface": ("external_ids", "options", "type"),
}


def edited(changes: Iterable[RowChange]) -> bool:
    """Whether something that we keep in order, or that it rests on, has changed: br-int, its controller, our tunnel ports, the ways to
    networks outside. Not our stamp, not statistics."""
    return any(
        concerns(c) or (c.table in _KEPT and _ours(c) and _kept(c.table, c.old) != _kept(c.table, c.new))
        for c in changes
    )


def _ours(change: RowChange) -> bool:
    rows = [row for row in (change.old, change.new) if row is not None]
    if change.table == "Interface":
        return any(row["external_ids"].keys() & {PEER, PROVIDER} for row in rows)
    return change.table == "Controller" or any(row["name"] == BRIDGE for row in rows)


def _kept(table: str, row: Mapping[str, Any] | None) -> Any:
    if row is None:
        return None
    found = {column: row[column] for column in _KEPT[table]}
    if table == "Bridge":
        found["external_ids"] = {k: v for k, v in row["external_ids"].items() if k not in (REVISION, TERM)}
    return found


def is_marked(tables: Replica | None) -> bool:
    """Whether br-int carries the tombstoned mark."""
    own = bridge(tables) if tables is not None else None
    return own is not None and own.row["external_ids"].get(TOMBSTONED) == "true"


def mark_change(changes: Iterable[RowChange]) -> tuple[bool, bool] | None:
    """The tombstoned mark on br-int before and after, if br-int was there and still is."""
    for change in changes:
        if change.table == "Bridge" and change.old is not None and change.new is not None and _ours(change):
            before, after = (row["external_ids"].get(TOMBSTONED) == "true" for row in (change.old, change.new))
            return before, after
    return None


def foreign(tables: Replica, store_id: str, target: str) -> str:
    """Why this br-int looks like another system's, or "". One that any Ebbtide wrote is not foreign (the brake sees to it)."""
    own = bridge(tables)
    if own is None or own.stamp.store:
        return ""
    others = [c["target"] for c in own.controllers if c["target"] != target]
    if others:
        return f"br-int is run by another controller ({', '.join(sorted(others))})"
    if own.row["fail_mode"] == "secure" and not own.controllers:
        ports = sorted(row["name"] for _, _, row in interfaces(tables) if row["name"] != BRIDGE)
        if ports:
            return f"br-int has ports ({', '.join(ports[:5])}) and no controller: its flows are put in by other means"
    strange = sorted(
        row["name"]
        for _, _, row in interfaces(tables)
        if row["type"] in (*TUNNEL_TYPES, "patch") and PROVIDER not in row["external_ids"]
    )
    if strange:
        return f"br-int has tunnel or patch ports of another system ({', '.join(strange[:5])})"
    # A card, or a port of the host's own: its NORMAL flow may be all that the host is reached by. That the LOCAL port, br-int itself, has
    # an address is nothing that the database tells.
    own_ports = sorted(
        row["name"]
        for _, _, row in interfaces(tables)
        if row["name"] != BRIDGE and not row["external_ids"].keys() & {"iface-id", PEER, PROVIDER}
    )
    if own_ports:
        return f"br-int has ports without iface-id ({', '.join(own_ports[:5])}): what the host itself reaches by them would be cut off"
    return ""


def datapath_type(tables: Replica) -> str:
    """The datapath type for a br-int that we make: that of the host's other bridges if they agree, else the default."""
    types = {row["datapath_type"] for row in tables.rows("Bridge").values() if row["name"] != BRIDGE}
    return types.pop() if len(types) == 1 else ""


def underlay(tables: Replica) -> tuple[str, int]:
    """Name and MTU of the bridge that carries the tunnels, or "" and 0: a bridge that is neither br-int nor a provider's.

    Which of several it is the database does not tell: then the widest, so that what is said against it holds for all.
    """
    found = root(tables)
    mappings = found[1]["other_config"].get("provider_mappings", "") if found is not None else ""
    others = {BRIDGE, *(pair.partition(":")[2] for pair in mappings.split(","))}
    widths = {}
    for row in tables.rows("Bridge").values():
        ports = [tables.row("Port", port) for port in row["ports"]] if row["name"] not in others else []
        own = next((p for p in ports if p is not None and p["name"] == row["name"]), None)
        for uuid in own["interfaces"] if own is not None else ():
            interface = tables.row("Interface", uuid)
            if interface is not None and interface["mtu"]:
                widths[row["name"]] = interface["mtu"]
    return max(widths.items(), key=lambda item: item[1], default=("", 0))


class Rows:
    """One transaction to a compute: gather, then send if it is not empty."""

    def __init__(self, tables: Replica, term: int) -> None:
        self._tables = tables
        self._transaction = Transaction(tables.schema)
        self._fence = len(self._transaction)
        # Nothing is awaited while a transaction is gathered: what is read once stays true for it.
        own = self._bridge = bridge(tables)
        self._interfaces = list(interfaces(tables))
        if own is None:
            self._transaction.wait("Bridge", [eq("name", BRIDGE)], [], columns=["name"])
        elif own.stamp.term == term:
            self._transaction.wait("Bridge", [includes("external_ids", {TERM: str(term)})], [{"name": BRIDGE}])
        else:
            # The first write of a leadership: on the value that was read, and only upwards (`ensure_bridge` raises it).
            assert own.stamp.term < term, (own.stamp, term)
            found = [{"external_ids": own.row["external_ids"]}]
            self._transaction.wait("Bridge", [eq("name", BRIDGE)], found)
        self._fence = len(self._transaction)
        self._bumped = False
        self.made_tunnels = False

    @property
    def transaction(self) -> Transaction | None:
        """What has been gathered, or None if there is nothing to do."""
        if len(self._transaction) == self._fence:
            return None
        if not self._bumped:
            # ovs-vsctl does the same: vswitchd reports cur_cfg when it has realised everything up to it.
            self._transaction.mutate("Open_vSwitch", (), [_next_cfg()])
            self._bumped = True
        return self._transaction

    def bump(self) -> None:
        """Ask vswitchd to say when it has realised everything."""
        self._transaction.mutate("Open_vSwitch", (), [_next_cfg()])
        self._bumped = True

    def ensure_bridge(self, ids: Mapping[str, str], drop: Iterable[str], dpid: int, target: str) -> None:
        """br-int as it must be: fail mode, datapath id, controller, protocols, and our external_ids."""
        own = self._bridge
        config = {"disable-in-band": "true", "datapath-id": f"{dpid:016x}"}
        controller = {
            "target": target,
            "max_backoff": 1000,
            "inactivity_probe": 5000,
            "connection_mode": "out-of-band",
        }
        if own is None:
            self._new_bridge(ids, config, controller)
            return
        transaction, row = self._transaction, own.row
        self._merge(own.uuid, "external_ids", row["external_ids"], ids, drop)
        self._merge(own.uuid, "other_config", row["other_config"], config, ())
        fixed: dict[str, Any] = {}
        if row["fail_mode"] != "secure":
            fixed["fail_mode"] = "secure"
        if not row["protocols"] >= PROTOCOLS:
            fixed["protocols"] = PROTOCOLS
        if fixed:
            transaction.update("Bridge", by_uuid(own.uuid), fixed)
        current = [c for c in own.controllers if c["target"] == target]
        if len(own.controllers) != 1 or not current or any(current[0][k] != v for k, v in controller.items()):
            named = transaction.insert("Controller", controller, name="controller")
            transaction.update("Bridge", by_uuid(own.uuid), {"controller": frozenset({named})})

    def _new_bridge(self, ids: Mapping[str, str], config: Mapping[str, str], controller: Mapping[str, Any]) -> None:
        transaction = self._transaction
        found = root(self._tables)
        assert found is not None
        named = transaction.insert("Controller", controller, name="controller")
        interface = transaction.insert("Interface", {"name": BRIDGE, "type": "internal"}, name="interface")
        port = transaction.insert("Port", {"name": BRIDGE, "interfaces": frozenset({interface})}, name="port")
        made = transaction.insert(
            "Bridge",
            {
                "name": BRIDGE,
                "ports": frozenset({port}),
                "controller": frozenset({named}),
                "fail_mode": "secure",
                "protocols": PROTOCOLS,
                "datapath_type": datapath_type(self._tables),
                "other_config": dict(config),
                "external_ids": dict(ids),
            },
            name="bridge",
        )
        transaction.mutate("Open_vSwitch", by_uuid(found[0]), [insert_into("bridges", frozenset({made}))])

    def _merge(
        self, uuid: Uuid, column: str, now: Mapping[str, str], want: Mapping[str, str], drop: Iterable[str]
    ) -> None:
        """Set keys of a map. Insert leaves a key that is there as it was, so it is deleted first, in one mutation list."""
        changed = {k: v for k, v in want.items() if now.get(k) != v}
        gone = frozenset({k for k in changed if k in now} | {k for k in drop if k in now})
        mutations = [delete_from(column, gone)] if gone else []
        if changed:
            mutations.append(insert_into(column, changed))
        if mutations:
            self._transaction.mutate("Bridge", by_uuid(uuid), mutations)

    def make_tunnels(self, tunnels: Iterable[TunnelRow], adopted: bool = False) -> bool:
        """Tunnel ports that are missing or differ. BFD is not armed here: see `arm`.

        True: others had to go first (those of an address that we had before, and on an `adopted` br-int those of the system that
        ran it); call again when that is realised.
        """
        own = self._bridge
        assert own is not None
        wanted = list(tunnels)
        if self._clear_way(own, wanted, adopted):
            return True
        there = {row["name"]: (uuid, row) for _, uuid, row in self._interfaces}
        made = []
        for index, tunnel in enumerate(sorted(wanted)):
            ids = {PEER: str(tunnel.peer)}
            options = {"remote_ip": tunnel.remote_ip, "key": "flow"}
            if own.row["datapath_type"] != "netdev":
                # The userspace datapath takes the source address from its own routes, and refuses one that these do not call
                # local (routes added by hand are not); the kernel's chooses by the host's routes, which may differ.
                options["local_ip"] = tunnel.local_ip
            found = there.get(tunnel.name)
            if found is not None:
                uuid, row = found
                if row["external_ids"] != ids or row["options"] != options or row["ofport"] == -1:
                    changed = {"external_ids": ids, "options": options, "ofport_request": _ofport(tunnel.peer)}
                    self._transaction.update("Interface", by_uuid(uuid), changed)
                continue
            interface = {
                "name": tunnel.name,
                "type": "vxlan",
                "options": options,
                "external_ids": ids,
                "ofport_request": _ofport(tunnel.peer),
            }
            named = self._transaction.insert("Interface", interface, name=f"tunnel{index}")
            port = {"name": tunnel.name, "interfaces": frozenset({named})}
            made.append(self._transaction.insert("Port", port, name=f"tunnelport{index}"))
        if made:
            self._transaction.mutate("Bridge", by_uuid(own.uuid), [insert_into("ports", frozenset(made))])
            self.made_tunnels = True
        return False

    def _clear_way(self, own: Bridge, wanted: list[TunnelRow], adopted: bool) -> bool:
        """Take away ports of ours under another name that lead where a wanted one is to lead: they cannot live side by side."""
        names, ends = {t.name for t in wanted}, {t.remote_ip for t in wanted}
        gone = [
            port
            for port, _, row in self._interfaces
            if row["name"] not in names
            and (_far_end(row) in ends if PEER in row["external_ids"] else adopted and row["type"] in TUNNEL_TYPES)
        ]
        if gone:
            self._transaction.mutate("Bridge", by_uuid(own.uuid), [delete_from("ports", frozenset(gone))])
        return bool(gone)

    def drop_tunnels(self, keep: Iterable[str]) -> None:
        """Take away our tunnel ports but those named."""
        own = self._bridge
        kept = set(keep)
        gone = [port for port, _, row in self._interfaces if PEER in row["external_ids"] and row["name"] not in kept]
        if own is not None and gone:
            self._transaction.mutate("Bridge", by_uuid(own.uuid), [delete_from("ports", frozenset(gone))])

    def make_providers(self, wanted: Iterable[Provider]) -> None:
        """Ports to the networks outside; see `providers.py`."""
        ProviderRows(self._tables, self._transaction).make(wanted)

    def drop_providers(self, keep: Iterable[Provider]) -> None:
        """Take those away that are not named."""
        ProviderRows(self._tables, self._transaction).drop(keep)

    def arm(self, armed: Mapping[str, bool], interval: int) -> None:
        """BFD on (name -> True) or off, on the tunnel ports named. `interval` in milliseconds."""
        on = {"enable": "true", "min_tx": str(interval), "min_rx": str(interval)}
        for _, uuid, row in self._interfaces:
            if PEER not in row["external_ids"] or row["name"] not in armed:
                continue
            want = on if armed[row["name"]] else {}
            if dict(row["bfd"]) != want:
                self._transaction.update("Interface", by_uuid(uuid), {"bfd": want})

    def disarm(self) -> None:
        """BFD off on all of our tunnel ports."""
        self.arm({row["name"]: False for _, _, row in self._interfaces}, 0)

    def restore_wait(self, on: bool) -> None:
        """The key that keeps a restarted vswitchd silent until it is taken away (docs/decisions.md, section 10).

        A mark on br-int says that it is ours: one that somebody else has set is left alone.
        """
        found, own = root(self._tables), self._bridge
        if found is None or own is None:
            return
        marked = own.row["external_ids"].get(HELD) == "true"
        now = found[1]["other_config"].get(_KEY)
        mutations = [delete_from("other_config", frozenset({_KEY}))] if now is not None else []
        if on and now != "true":
            mutations.append(insert_into("other_config", {_KEY: "true"}))
        if (on and now != "true") or (not on and now is not None and marked):
            self._transaction.mutate("Open_vSwitch", by_uuid(found[0]), mutations)
        if on != marked:
            mark = {HELD: "true"} if on else {}
            self._merge(own.uuid, "external_ids", own.row["external_ids"], mark, () if on else (HELD,))

    def set_ids(self, ids: Mapping[str, str]) -> None:
        """Set keys of br-int's external_ids."""
        own = self._bridge
        if own is not None:
            self._merge(own.uuid, "external_ids", own.row["external_ids"], ids, ())

    def hold_back(self, on: bool) -> None:
        """The mark that `held_back` reads: it outlives the session, the revision and the controller."""
        own = self._bridge
        if own is not None:
            ids = own.row["external_ids"]
            self._merge(own.uuid, "external_ids", ids, {BRAKE: "held"} if on else {}, () if on else (BRAKE,))

    def release(self, controller: bool = False) -> None:
        """A removed compute: our tunnel ports and keys go, with `controller` its Controller row too.

        The Manager row stays, so that its return is seen.
        """
        own = self._bridge
        if own is None:
            return
        self.drop_tunnels(())
        self.drop_providers(())
        self.restore_wait(on=False)
        keys = frozenset(k for k in own.row["external_ids"] if k.startswith("ebbtide-") or k == TOMBSTONED)
        if keys:
            self._transaction.mutate("Bridge", by_uuid(own.uuid), [delete_from("external_ids", keys)])
        if controller and own.row["controller"]:
            self._transaction.update("Bridge", by_uuid(own.uuid), {"controller": frozenset()})


def _ofport(peer: int) -> int | None:
    """The port number to ask for: a tunnel keeps its number over a restart of the switch, and its flows with it.

    Only a request: what counts is what the switch says. Numbers end below 0xff00 (OpenFlow 1.0's reserved ones).
    """
    return FIRST_TUNNEL + peer if FIRST_TUNNEL + peer < 0xFF00 else None


def is_held(tables: Replica) -> bool:
    """Whether a vswitchd that starts now would keep silent."""
    found = root(tables)
    return found is not None and found[1]["other_config"].get(_KEY) == "true"


def is_held_by_us(tables: Replica | None) -> bool:
    """Whether we said so: it may be of a time when this compute was to be held, and nobody else would let its switch go."""
    own = bridge(tables) if tables is not None else None
    return own is not None and own.row["external_ids"].get(HELD) == "true"


def _next_cfg() -> Any:
    return add("next_cfg", 1)
