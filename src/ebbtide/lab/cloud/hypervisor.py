"""Nova's hypervisor for computes of a lab: its own fake one, which plugs VMs, waits and migrates as libvirt's driver does.

Which instances are here is in files below `instances_path`, and which of them run is in the lab's record, so a nova-compute that starts
anew finds its VMs. A server has one interface. Disks, volumes, snapshots and consoles are as fake as in Nova's own.

    spawn             plugged; waits for Neutron's "network-vif-plugged", without which the boot fails; then the guest starts
    live migration    plugged at the destination first; both for `overlap` seconds; the guest runs there and is announced; unplugged here
    cold migration    unplugged here, plugged there when it starts
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from nova import conf, exception
from nova.compute import power_state
from nova.virt import fake, hardware, node
from oslo_concurrency import processutils
from oslo_config import cfg
from oslo_log import log

from ..lab import Lab
from .files import FAILING

LOG = log.getLogger(__name__)
CONF = conf.CONF
CONF.register_opts(
    [
        cfg.StrOpt("name", help="The lab's name."),
        cfg.StrOpt("directory", help="The lab's directory."),
        cfg.FloatOpt("overlap", default=2.0, help="Seconds for which a guest's memory is copied."),
    ],
    "ebbtide_lab",
)


class LabDriver(fake.FakeDriver):  # type: ignore[misc]
    """See the module."""

    _host: str

    def init_host(self, host: str) -> None:
        """Nova starts: what is here is looked up."""
        super().init_host(host)
        self._lab = Lab(CONF.ebbtide_lab.name, Path(CONF.ebbtide_lab.directory))
        self._kept = Path(CONF.instances_path)
        self._kept.mkdir(parents=True, exist_ok=True)
        for file in self._kept.iterdir():
            self.instances[file.name] = fake.FakeInstance(file.read_text(), power_state.RUNNING, file.name)

    def get_nodenames_by_uuid(self, refresh: bool = False) -> dict[str, str]:
        """The node keeps its identity, as libvirt's does, in a file below state_path: without it, Nova starts no second time."""
        return {node.get_local_node_uuid(): self._host}

    def get_host_uptime(self) -> str:
        """That of the machine."""
        return Path("/proc/uptime").read_text().split()[0]

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        """As the fake one has it, with that identity."""
        found: dict[str, Any] = super().get_available_resource(nodename)
        return found | {"uuid": node.get_local_node_uuid()}

    # --- which are here ---

    def _keep(self, instance: Any) -> None:
        (self._kept / instance.uuid).write_text(instance.name)
        self.instances[instance.uuid] = fake.FakeInstance(instance.name, power_state.RUNNING, instance.uuid)

    def _forget(self, instance: Any) -> None:
        (self._kept / instance.uuid).unlink(missing_ok=True)
        self.instances.pop(instance.uuid, None)

    def _runs_here(self, uuid: str) -> bool:
        record = self._lab.site.read().vms.get(uuid)
        return record is not None and record.active == self._host

    def get_info(self, instance: Any, use_cache: bool = True) -> Any:
        """Whether it runs."""
        if instance.uuid not in self.instances:
            raise exception.InstanceNotFound(instance_id=instance.uuid)
        state = power_state.RUNNING if self._runs_here(instance.uuid) else power_state.SHUTDOWN
        return hardware.InstanceInfo(state=state)

    # --- deeds ---

    def _do(self, deed: str, instance: Any, *words: object, host: str = "") -> None:
        where = [CONF.ebbtide_lab.name, CONF.ebbtide_lab.directory]
        module = [sys.executable, "-m", "ebbtide.lab.cloud.machine"]
        processutils.execute(*module, *where, deed, instance.uuid, host or self._host, *map(str, words))

    def _unplug(self, instance: Any, host: str = "") -> None:
        """Take it from br-int, if it is there: Nova asks more than once."""
        record = self._lab.site.read().vms.get(instance.uuid)
        if record is not None and (host or self._host) in record.taps:
            self._do("unplug", instance, host=host)

    def _plug(self, instance: Any, network_info: Any) -> None:
        vif = _only(network_info)
        if vif is None:
            return
        mtu = vif["network"]["meta"].get("mtu") or 1450
        self._do("plug", instance, vif["address"], vif["id"], mtu)
        self._interfaces[vif["id"]] = vif

    def _boot(self, instance: Any) -> None:
        """The guest starts; without an interface there is nothing that it could do."""
        if instance.uuid in self._lab.site.read().vms:
            self._do("boot", instance)

    def spawn(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Any,
        admin_password: Any,
        allocations: Any,
        network_info: Any = None,
        block_device_info: Any = None,
        power_on: bool = True,
        accel_info: Any = None,
    ) -> None:
        """Plug it, wait for Neutron, start the guest."""
        self._keep(instance)
        if not power_on:
            return
        waited = [("network-vif-plugged", v["id"]) for v in network_info or () if v.get("active", True) is False]
        try:
            with self.virtapi.wait_for_instance_event(
                instance, waited, timeout=CONF.vif_plugging_timeout, error_callback=_event_failed
            ):
                self._plug(instance, network_info)
        except (exception.VirtualInterfaceCreateException, exception.InstanceEventTimeout) as error:
            LOG.warning("%s was not plugged in time: %s", instance.uuid, error)
            if CONF.vif_plugging_is_fatal:
                self._do("remove", instance)
                self._forget(instance)
                raise exception.VirtualInterfaceCreateException from None
        self._boot(instance)

    def destroy(self, context: Any, instance: Any, network_info: Any, *args: Any, **kwargs: Any) -> None:
        """It is gone from here."""
        self._do("remove", instance)
        self._forget(instance)

    def cleanup(self, context: Any, instance: Any, network_info: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing of it is left here."""
        self._unplug(instance)
        self._forget(instance)

    def plug_vifs(self, instance: Any, network_info: Any) -> None:
        """At the start of a nova-compute, for what should run here."""
        if instance.uuid in self.instances and self._runs_here(instance.uuid):
            return
        self._plug(instance, network_info)

    def unplug_vifs(self, instance: Any, network_info: Any) -> None:
        """Take it from br-int."""
        self._unplug(instance)

    def power_off(self, instance: Any, timeout: int = 0, retry_interval: int = 0) -> None:
        """The machine ends, and its tap with it."""
        self._unplug(instance)

    def power_on(self, context: Any, instance: Any, network_info: Any, *args: Any, **kwargs: Any) -> None:
        """The machine starts anew."""
        self._plug(instance, network_info)
        self._boot(instance)

    def reboot(self, context: Any, instance: Any, network_info: Any, *args: Any, **kwargs: Any) -> None:
        """Off, and on."""
        self.power_off(instance)
        self.power_on(context, instance, network_info)

    # --- live migration ---

    def check_can_live_migrate_destination(self, *args: Any, **kwargs: Any) -> Any:
        """Disks are copied: where they are shared, Nova lets the destination of a failed migration keep what it has plugged."""
        found = super().check_can_live_migrate_destination(*args, **kwargs)
        found.is_shared_instance_path = found.is_shared_block_storage = False
        return found

    def pre_live_migration(
        self,
        context: Any,
        instance: Any,
        block_device_info: Any,
        network_info: Any,
        disk_info: Any,
        migrate_data: Any,
    ) -> Any:
        """At the destination: it is plugged, and does not run yet."""
        if _only(network_info) is not None:
            self._do("wait", instance)
        return migrate_data

    def live_migration(
        self,
        context: Any,
        instance: Any,
        dest: str,
        post_method: Any,
        recover_method: Any,
        block_migration: bool = False,
        migrate_data: Any = None,
    ) -> None:
        """At the source: copy, and switch; or fail, if that is wanted."""
        LOG.info("live migration of %s to %s, block migration %s", instance.uuid, dest, block_migration)
        time.sleep(CONF.ebbtide_lab.overlap)
        failing = Path(CONF.ebbtide_lab.directory) / FAILING
        if failing.exists() and instance.uuid in failing.read_text().split():
            LOG.error("live migration of %s failed: internal error: unable to copy memory", instance.uuid)
            # The machine that waited at the destination ends, and libvirt takes its tap away.
            self._unplug(instance, dest)
            recover_method(context, instance, dest, migrate_data)
            return
        if instance.uuid in self._lab.site.read().vms:
            # The machine at the destination wakes, whoever tells it to.
            self._do("run", instance, host=dest)
        post_method(context, instance, dest, block_migration, migrate_data)

    def post_live_migration_at_source(self, context: Any, instance: Any, network_info: Any) -> None:
        """It is not here any more."""
        self._unplug(instance)
        self._forget(instance)

    def post_live_migration_at_destination(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> None:
        """It is here."""
        self._keep(instance)

    def rollback_live_migration_at_destination(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> None:
        """It does not come."""
        self._unplug(instance)
        self._forget(instance)

    # --- cold migration ---

    def migrate_disk_and_power_off(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> str:
        """It ends here."""
        self._unplug(instance)
        return "[]"

    def finish_migration(
        self,
        context: Any,
        migration: Any,
        instance: Any,
        disk_info: Any,
        network_info: Any,
        image_meta: Any,
        resize_instance: bool,
        allocations: Any,
        block_device_info: Any = None,
        power_on: bool = True,
        share_info: Any = None,
    ) -> None:
        """It begins here, if it ran before."""
        self._keep(instance)
        if power_on:
            self.power_on(context, instance, network_info)

    def confirm_migration(self, context: Any, migration: Any, instance: Any, network_info: Any) -> None:
        """Nothing of it is left here."""
        self._forget(instance)

    def finish_revert_migration(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        migration: Any,
        block_device_info: Any = None,
        power_on: bool = True,
        share_info: Any = None,
    ) -> None:
        """It begins here again, if it ran before."""
        self._keep(instance)
        if power_on:
            self.power_on(context, instance, network_info)


def _only(network_info: Any) -> Any:
    """The interface of a server; None: it has none."""
    found = list(network_info or ())
    if len(found) > 1:
        raise exception.InvalidInput(reason="a server of this lab has one interface, and this one has more")
    return found[0] if found else None


def _event_failed(event_name: str, instance: Any) -> None:
    raise exception.VirtualInterfaceCreateException
