"""A MariaDB of one's own, in a namespace and a directory."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ...errors import NotReady
from ..commands import CommandFailed, run, wait_until
from ..lab import Lab

PORT = 3306
#: Of all its databases; it is on a namespace's loopback, where nobody else is.
USER = "openstack"
_START = 60.0


class Database:
    """MariaDB in a lab's control namespace. `password`: that of the one account."""

    def __init__(self, lab: Lab, directory: Path, password: str) -> None:
        self._lab, self._directory, self._password = lab, directory, password
        #: Where it listens too.
        self.socket = directory / "sql"

    def start(self) -> None:
        """Make it if it is not there, start it, and wait for it.

        Raises:
            NotReady: MariaDB is not installed, or does not answer in time.
        """
        if shutil.which("mariadbd") is None:
            raise NotReady("MariaDB is not installed (mariadb-server): `scripts/setup-openstack.sh` installs it")
        data, passing = self._directory / "data", self._directory / "tmp"
        passing.mkdir(parents=True, exist_ok=True)
        if not (data / "mysql").exists():
            options = ["--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db", f"--tmpdir={passing}"]
            run(["mariadb-install-db", *options, "--auth-root-authentication-method=normal"], deadline=_START)
        command = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={self.socket}"]
        command += [f"--pid-file={self._directory}/mariadb.pid", "--bind-address=127.0.0.1", f"--port={PORT}"]
        # When it starts, MariaDB takes away whatever temporary tables it finds there: another's too.
        command += [f"--tmpdir={passing}"]
        # What a power cut would lose is of no use in a lab.
        command += ["--innodb-flush-log-at-trx-commit=0", "--skip-log-bin", "--max-connections=400"]
        self._lab.spawn("cloud-database", [*command, "--character-set-server=utf8mb3"])
        wait_until(self._answers, "MariaDB to answer", _START)

    def _answers(self) -> bool:
        try:
            self.ask("SELECT 1")
        except CommandFailed:
            return False
        return True

    def ask(self, *statements: str) -> str:
        """Statements of SQL, as root; their output, a row a line."""
        # Not as an argument: who lists processes would read passwords.
        return run(self.client, stdin=";\n".join(statements) + ";\n", deadline=_START)

    @property
    def client(self) -> list[str]:
        """The command that reads statements."""
        client = ["mariadb", "--no-defaults", "-uroot", f"--socket={self.socket}", "--batch", "--skip-column-names"]
        return [*client, "--unbuffered"]

    def make(self, names: Sequence[str]) -> None:
        """Databases, and the account that they are all of."""
        account = f"'{USER}'@'%' IDENTIFIED BY '{self._password}'"
        made = [f"CREATE DATABASE IF NOT EXISTS {name}" for name in names]
        self.ask(*made, f"CREATE USER IF NOT EXISTS {account}", f"GRANT ALL ON *.* TO '{USER}'@'%'")

    def url(self, name: str, socket: Path | None = None) -> str:
        """Of a database, as SQLAlchemy has it; by this socket, if not by TCP."""
        by = f"?unix_socket={socket}" if socket else ""
        return f"mysql+pymysql://{USER}:{self._password}@127.0.0.1:{PORT}/{name}{by}"
