"""Rates of `ebbtide.ovsdb` against ovs.db.idl, on a private ovsdb-server: CPU seconds of the client, best of three.

   python -m bench.ovsdb

1. First synchronization of some 8 200 rows: 4 000 ports with an interface each, 200 bridges, one Open_vSwitch.
2. 2 000 VXLAN ports added to one bridge in one transaction: build, send, and see them in the copy.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from ebbtide.ovsdb import Replica, Session, Transaction, eq, insert_into
from ebbtide.ovsdb import events as ev
from ebbtide.ovsdb.schema import DatabaseSchema

from .rows import Options, Row

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
TABLES = ("Open_vSwitch", "Bridge", "Port", "Interface")
RUNS = 3


class Link:
    """A session over a blocking socket."""

    def __init__(self, path: str) -> None:
        self.session = Session()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.events: list[ev.Event] = []

    def ask(self, request: int) -> ev.Answer:
        self.socket.sendall(self.session.data_to_send())
        while True:
            for event in self.events:
                if isinstance(event, ev.Answer) and event.request == request:
                    self.events.clear()
                    return event
            self.events += self.session.receive(self.socket.recv(262144))
            self.socket.sendall(self.session.data_to_send())

    def schema(self) -> DatabaseSchema:
        answer = self.ask(self.session.get_schema("Open_vSwitch"))
        assert isinstance(answer, ev.SchemaReceived)
        return answer.schema

    def transact(self, transaction: Transaction) -> None:
        answer = self.ask(self.session.transact(transaction))
        assert isinstance(answer, ev.Transacted), answer
        assert answer.outcome.ok, answer


def add_ports(transaction: Transaction, bridge: str, count: int) -> None:
    ports = set()
    for number in range(count):
        name = f"{bridge}-p{number}"
        options = {"remote_ip": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "key": "flow"}
        ids = {"attached-mac": f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}", "iface-id": name}
        row = {"name": name, "type": "vxlan", "options": options, "external_ids": ids, "ofport_request": number + 1}
        interface = transaction.insert("Interface", row)
        ports.add(transaction.insert("Port", {"name": name, "interfaces": {interface}, "external_ids": {"owner": "x"}}))
    transaction.mutate("Bridge", [eq("name", bridge)], [insert_into("ports", ports)])


def fill(link: Link) -> None:
    transaction = Transaction(link.schema())
    bridges = {transaction.insert("Bridge", {"name": f"br{number}"}) for number in range(200)}
    transaction.insert("Open_vSwitch", {"bridges": bridges})
    for number in range(200):
        add_ports(transaction, f"br{number}", 20)
    link.transact(transaction)


def ours_sync(path: str) -> None:
    link = Link(path)
    replica = Replica(link.schema(), TABLES)
    answer = link.ask(link.session.monitor(replica))
    assert isinstance(answer, ev.Synced)
    assert len(replica) > 8200


def ours_ports(path: str) -> Callable[[], None]:
    link = Link(path)
    replica = Replica(link.schema(), TABLES)
    link.ask(link.session.monitor(replica))
    before = len(replica)

    def run() -> None:
        transaction = Transaction(replica.schema)
        add_ports(transaction, "br0", 2000)
        link.transact(transaction)
        assert len(replica) == before + 4000

    return run


def idl_of(path: str):  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ovs.db.idl
        import ovs.poller
    helper = ovs.db.idl.SchemaHelper(SCHEMA)
    for table in TABLES:
        helper.register_table(table)
    idl = ovs.db.idl.Idl(f"unix:{path}", helper)
    idl_turn(idl, lambda: bool(idl.has_ever_connected() and idl.tables["Open_vSwitch"].rows))
    return idl


def idl_turn(idl, done: Callable[[], bool]) -> None:  # type: ignore[no-untyped-def]
    import ovs.poller

    while True:
        idl.run()
        if done():
            return
        poller = ovs.poller.Poller()
        idl.wait(poller)
        poller.block()


def idl_sync(path: str) -> None:
    idl = idl_of(path)
    assert sum(len(idl.tables[table].rows) for table in TABLES) > 8200


def idl_ports(path: str) -> Callable[[], None]:
    idl = idl_of(path)
    import ovs.db.idl

    def run() -> None:
        transaction = ovs.db.idl.Transaction(idl)
        bridge = next(row for row in idl.tables["Bridge"].rows.values() if row.name == "br0")
        for number in range(2000):
            name = f"br0-p{number}"
            interface = transaction.insert(idl.tables["Interface"])
            interface.name, interface.type = name, "vxlan"
            interface.options = {
                "remote_ip": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
                "key": "flow",
            }
            interface.external_ids = {
                "attached-mac": f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}",
                "iface-id": name,
            }
            interface.ofport_request = number + 1
            port = transaction.insert(idl.tables["Port"])
            port.name, port.interfaces, port.external_ids = name, [interface], {"owner": "x"}
            bridge.addvalue("ports", port)
        status = transaction.commit_block()
        assert status == ovs.db.idl.Transaction.SUCCESS, status

    return run


def cpu(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def clear_ports(link: Link) -> None:
    transaction = Transaction(link.schema())
    transaction.update("Bridge", [eq("name", "br0")], {"ports": ()})
    link.transact(transaction)


def measure() -> dict[str, tuple[float, float]]:
    """Seconds of CPU time by step: ours, and ovs.db.idl's."""
    with tempfile.TemporaryDirectory(prefix="ovsdb-") as folder:
        database, path = f"{folder}/db", f"{folder}/sock"
        subprocess.run(["ovsdb-tool", "create", database, SCHEMA], check=True)
        command = ["ovsdb-server", f"--remote=punix:{path}", f"--unixctl={folder}/ctl", database]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while not Path(folder, "ctl").exists():
                time.sleep(0.02)
            link = Link(path)
            fill(link)
            sync = min(cpu(lambda: ours_sync(path)) for _ in range(RUNS)), cpu_idl_sync(path)
            # br0 starts empty, so that both sides add the same 2 000 ports.
            ours, idl = [], []
            for _ in range(RUNS):
                clear_ports(link)
                ours.append(cpu(ours_ports(path)))
                clear_ports(link)
                idl.append(cpu(idl_ports(path)))
            return {"sync of 8 201 rows": sync, "2 000 ports in one transaction": (min(ours), min(idl))}
        finally:
            server.kill()
            server.wait()


def cpu_idl_sync(path: str) -> float:
    idl_of(path).close()  # imports are not counted
    return min(cpu(lambda: idl_sync(path)) for _ in range(RUNS))


def run(options: Options) -> Iterator[Row]:
    """Rows, for `python -m bench ovsdb`."""
    for what, (ours, idl) in measure().items():
        yield Row(f"ovsdb: {what}, CPU of the client, against ovs.db.idl", ours, "s", idl)


def main() -> None:
    for what, (ours, idl) in measure().items():
        print(f"{what}: ours {ours:.3f} s, ovs.db.idl {idl:.3f} s, ratio {idl / ours:.1f}")


if __name__ == "__main__":
    main()
