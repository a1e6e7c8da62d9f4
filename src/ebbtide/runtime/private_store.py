"""The private store: an ovsdb-server on a local file, started and looked after by the controller.

The server is a daemon of its own: it outlives a controller that is killed, and the next one finds it by its socket. It ends with a
controller that stops properly. Nothing here touches a server that was not started in this directory, and nobody else is at it: who
looks after a private store has its directory (`state_directory.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import structlog

from ebbtide.errors import NotReady
from ebbtide.runtime import records

log = structlog.get_logger("store")


class PrivateStore:
    """ovsdb-server with `directory/ebbtide.db`, listening on `directory/store.sock`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = directory / "ebbtide.db"
        self.socket = directory / "store.sock"
        self._control = directory / "store.ctl"
        self._pidfile = directory / "store.pid"

    @property
    def remote(self) -> str:
        """Where to connect."""
        return f"unix:{self.socket}"

    async def ensure(self) -> None:
        """Create the database if there is none, and start the server if none answers.

        Raises:
            NotReady: the tools are missing or the server does not start.
            OSError: the machine is short of something (files, space on the disk); nothing of a server that lives was touched.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        if await self._answers():
            return
        if not self.database.exists():
            await self._tool("ovsdb-tool", "create", str(self.database), str(self._schema()))
        await self._convert()
        for stale in (self.socket, self._control):
            stale.unlink(missing_ok=True)
        await self._tool(
            "ovsdb-server",
            "--detach",
            "--no-chdir",
            f"--pidfile={self._pidfile}",
            f"--log-file={self.directory / 'store.log'}",
            "-vconsole:off",
            f"--unixctl={self._control}",
            f"--remote=punix:{self.socket}",
            str(self.database),
        )
        log.info("store_started", directory=str(self.directory))

    async def _convert(self) -> None:
        """Bring a database of an older schema to ours; a copy of what it was stays beside it. Schemas only ever grow."""
        schema = self._schema()
        answer = await self._tool("ovsdb-tool", "needs-conversion", str(self.database), str(schema))
        if answer.strip() != "yes":
            return
        version = (await self._tool("ovsdb-tool", "db-version", str(self.database))).strip()
        found, ours = _numbers(version), _numbers(records.SCHEMA_VERSION)
        if found > ours:
            raise NotReady(
                f"{self.database} has schema {version}, newer than {records.SCHEMA_VERSION}: use a newer Ebbtide"
            )
        if found[:1] != ours[:1]:
            raise NotReady(
                f"{self.database} has schema {version}, which cannot be brought to {records.SCHEMA_VERSION}: "
                "use an Ebbtide of its time, or another state_dir"
            )
        shutil.copy2(self.database, self.directory / f"ebbtide.db.{version}")
        await self._tool("ovsdb-tool", "convert", str(self.database), str(schema))
        log.warning("store_converted", old=version, new=records.SCHEMA_VERSION)

    def _schema(self) -> Path:
        """The file with our schema. It is written only if it is not so already: a full disk must not keep a store from its start."""
        file, wanted = self.directory / "ebbtide.ovsschema", json.dumps(records.schema(), indent=1)
        if not file.exists() or file.read_text(errors="replace") != wanted:
            file.write_text(wanted)
        return file

    async def watch(self) -> None:
        """Start it again whenever it has died. What keeps it from that is said once, and tried again."""
        dead, said = False, ""
        while True:
            await asyncio.sleep(0.5)
            reason = ""
            try:
                if await self._answers():
                    dead = False
                else:
                    if not dead:
                        log.warning("store_died", directory=str(self.directory))
                    dead = True
                    await self.ensure()
            except (NotReady, OSError) as error:
                reason = str(error)
                if reason != said:
                    event = "store_does_not_start" if dead else "store_not_seen"
                    log.error(event, reason=reason, directory=str(self.directory))
            said = reason

    async def stop(self) -> None:
        """End the server. One that has died already has ended."""
        if not self._control.exists() or not await self._answers():
            return
        await self._tool("ovs-appctl", "-t", str(self._control), "exit")
        for _ in range(100):
            # It answers before it has gone; who stops it may want to copy or remove its files.
            if not self._pidfile.exists():
                return
            await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        """Whether a server lives.

        Raises:
            OSError: that cannot be told (no file is left to connect with, say).
        """
        try:
            _, writer = await asyncio.open_unix_connection(str(self.socket))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        writer.close()
        return True

    async def _tool(self, *words: str) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "OVS_RUNDIR": str(self.directory)},
                start_new_session=True,
            )
        except FileNotFoundError:
            raise NotReady(f"{words[0]} is not installed: apt-get install openvswitch-common") from None
        output, errors = await process.communicate()
        if process.returncode:
            raise NotReady(f"{words[0]} failed: {errors.decode(errors='replace').strip()}")
        return output.decode()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
