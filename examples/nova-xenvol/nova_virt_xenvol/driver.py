"""What nova asks of a hypervisor driver, in calls of xenvol's `VolumeOps` and of `Machines`.

Neither keeps state, and every call can be repeated: what a service did before it was killed is in xapi. What this class
does not define, nova's base class refuses. Its methods have nova's signatures; nova ships no types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nova.conf
from nova import exception, objects
from nova.compute import power_state
from nova.objects.migrate_data import VMwareLiveMigrateData
from nova.virt import configdrive, driver, hardware
from nova.virt.xenvol import config, resources
from nova.virt.xenvol.errors import logged, translated
from nova.virt.xenvol.machines import NULL, Machine, Machines
from oslo_log import log as logging

from xenvol.volumeops import VolumeOps

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

POWER_STATES = {
    "Halted": power_state.SHUTDOWN,
    "Paused": power_state.PAUSED,
    "Running": power_state.RUNNING,
    "Suspended": power_state.SUSPENDED,
}

ConnectionInfo = Mapping[str, Any]


class Driver(driver.ComputeDriver):
    """Runs servers on one host of a XenAPI pool. All their disks are volumes."""

    capabilities = driver.ComputeDriver.capabilities | {
        "supports_evacuate": True,
        "supports_extend_volume": True,
        "supports_multiattach": True,
    }

    def init_host(self, host):
        with translated():
            self._session = config.log_in()
            self._volumes = VolumeOps(self._session)
            self._machines = Machines(self._session, config.host_name())

    def cleanup_host(self, host):
        self._session.close()

    # --- servers -------------------------------------------------------------------------------------------

    def spawn(
        self,
        context,
        instance,
        image_meta,
        injected_files,
        admin_password,
        allocations,
        network_info=None,
        block_device_info=None,
        power_on=True,
        accel_info=None,
    ):
        """Create the VM, attach its volumes, and start it. If there is one, on a host that died, it is taken over."""
        _check_supported(instance, injected_files, network_info, block_device_info)
        with translated():
            found = self._machines.find(instance.uuid)
            if found is not None:
                self._machines.take_over(found)
                return self._bring_up(instance, block_device_info, power_on)
            try:
                self._create(instance)
                return self._bring_up(instance, block_device_info, power_on)
            except BaseException:
                with logged("the removal of what a failed spawn left", instance):
                    self.destroy(context, instance, network_info, block_device_info)
                raise

    def _create(self, instance: Any) -> None:
        self._machines.create(
            instance.uuid,
            description=instance.display_name or "",
            memory_mb=instance.flavor.memory_mb,
            vcpus=instance.flavor.vcpus,
            platform=CONF.xenvol.platform,
        )

    def _bring_up(self, instance: Any, block_device_info: Any, power_on: bool = True) -> None:
        machine = self._machines.get(instance.uuid)
        self._attach_all(machine, instance, block_device_info)
        if power_on:
            self._machines.start(machine)

    def _attach_all(self, machine: Machine, instance: Any, block_device_info: Any) -> None:
        """Attach all volumes of a server; those in place get the attachment ids that Cinder gives them now."""
        for volume in _mapping(block_device_info):
            device = volume["mount_device"]
            self._volumes.attach_volume(
                volume["connection_info"], machine.ref, device, bootable=device == instance.root_device_name
            )

    def destroy(self, context, instance, network_info, block_device_info=None, *arguments, **options):
        """Halt the VM, detach its volumes, and destroy it. Idempotent. Spares a VM that belongs to another host."""
        with translated():
            machine = self._machines.find(instance.uuid)
            if machine is not None:
                if machine.host_ref not in (NULL, self._machines.host_ref):
                    return
                self._machines.stop(machine)
                self._volumes.detach_all(machine.ref)
                self._machines.destroy(machine)
            for volume in _mapping(
                block_device_info
            ):  # a service that was killed may have connected it, and no more
                self._volumes.disconnect_volume(volume["connection_info"])

    def cleanup(self, *arguments, **options):
        """Do nothing: `destroy` leaves nothing."""

    def list_instance_uuids(self):
        with translated():
            return [machine.instance_uuid for machine in self._machines.list_here()]

    list_instances = list_instance_uuids

    def get_info(self, instance, use_cache=True):
        with translated():
            return hardware.InstanceInfo(POWER_STATES[self._machines.get(instance.uuid).power_state])

    # --- power ---------------------------------------------------------------------------------------------

    def power_on(self, context, instance, *arguments, **options):
        with translated(exception.InstancePowerOnFailure):
            self._machines.start(self._machines.get(instance.uuid))

    resume_state_on_host_boot = power_on

    def power_off(self, instance, timeout=0, retry_interval=0):
        with translated(exception.InstancePowerOffFailure):
            self._machines.stop(self._machines.get(instance.uuid), patience=timeout)

    def reboot(
        self, context, instance, network_info, reboot_type, block_device_info=None, *arguments, **options
    ):
        """Stop the VM and start it. A hard reboot attaches what is not attached, as after a crash."""
        is_hard = reboot_type == "HARD"
        with translated(exception.InstanceRebootFailure):
            machine = self._machines.get(instance.uuid)
            self._machines.stop(machine, patience=0 if is_hard else CONF.shutdown_timeout)
            self._bring_up(instance, block_device_info if is_hard else None)

    def pause(self, instance):
        with translated():
            self._machines.pause(self._machines.get(instance.uuid))

    def unpause(self, instance):
        with translated():
            self._machines.start(self._machines.get(instance.uuid))

    def suspend(self, context, instance):
        """Suspend the VM. Where the pool has no room for its memory, it runs on, and nova says so."""
        try:
            with translated(exception.InstanceSuspendFailure):
                self._machines.suspend(self._machines.get(instance.uuid))
        except exception.InstanceSuspendFailure as error:
            raise exception.InstanceFaultRollback(error) from error

    def resume(self, context, instance, *arguments, **options):
        with translated(exception.InstanceResumeFailure):
            self._machines.start(self._machines.get(instance.uuid))

    # --- volumes -------------------------------------------------------------------------------------------

    def get_volume_connector(self, instance):
        with translated():
            return self._volumes.get_connector(self._machines.host_ref)

    def default_root_device_name(self, instance, image_meta, root_bdm):
        return "/dev/xvda"

    def attach_volume(
        self, context, connection_info, instance, mountpoint, disk_bus=None, device_type=None, encryption=None
    ):
        with translated(exception.VolumeAttachFailed, volume_id=connection_info.get("serial")):
            machine = self._machines.get(instance.uuid)
            self._volumes.attach_volume(connection_info, machine.ref, mountpoint)

    def detach_volume(self, context, connection_info, instance, mountpoint, encryption=None):
        """Detach the volume. After a live migration that failed, nova asks this of the destination, too."""
        with translated(exception.DeviceDetachFailed, device=mountpoint):
            machine = self._machines.find(instance.uuid)
            if machine is None:
                self._volumes.disconnect_volume(connection_info)
            else:
                self._volumes.detach_volume(connection_info, machine.ref, host=self._machines.host_ref)

    def extend_volume(self, context, connection_info, instance, requested_size):
        with translated():
            self._volumes.extend_volume(connection_info)

    def swap_volume(self, context, old_connection_info, new_connection_info, instance, mountpoint, resize_to):
        """Detach a volume, copy it, and attach the copy. The guest lacks the disk meanwhile."""
        with translated(exception.VolumeRebaseFailed):
            machine = self._machines.get(instance.uuid)
            self._volumes.detach_volume(old_connection_info, machine.ref)
            try:
                self._copy(old_connection_info, new_connection_info)
                self._volumes.attach_volume(new_connection_info, machine.ref, mountpoint)
            except BaseException:
                with logged("the removal of the new volume", instance):
                    self._volumes.disconnect_volume(new_connection_info)
                with logged("the return of the old volume", instance):
                    self._volumes.attach_volume(old_connection_info, machine.ref, mountpoint)
                raise
            # now, since after a migration by Cinder no call names this id again: the disk would stay in use for ever
            with logged("the end of the copy's connection", instance):
                self._volumes.disconnect_volume(new_connection_info)

    def _copy(self, old: ConnectionInfo, new: ConnectionInfo) -> None:
        hosts = [self._machines.host_ref]
        try:
            source = self._volumes.connect_volume(old, hosts=hosts)
            target = self._volumes.connect_volume(new, hosts=hosts)
            self._machines.copy_disk(source.vdi_ref, target.vdi_ref)
        finally:
            self._volumes.disconnect_volume(old)

    # --- live migration ------------------------------------------------------------------------------------

    def check_can_live_migrate_destination(
        self, context, instance, src_compute_info, dst_compute_info, block_migration=False, *arguments
    ):
        """Return nova's object with what both hosts tell each other, of a class that the conductor knows: nothing."""
        if block_migration:
            raise exception.MigrationPreCheckError(reason="xenvol.Driver copies no disks")
        with translated(exception.MigrationPreCheckError):
            if self._machines.find(instance.uuid) is None:
                raise exception.MigrationPreCheckError(reason="the server's host is of another pool")
        return VMwareLiveMigrateData()

    def check_can_live_migrate_source(self, context, instance, dest_check_data, block_device_info=None):
        return dest_check_data

    def cleanup_live_migration_destination_check(self, context, dest_check_data):
        """Do nothing: the check left nothing."""

    def pre_live_migration(self, context, instance, block_device_info, network_info, disk_info, migrate_data):
        """Connect the volumes to this host, the destination."""
        with translated(exception.MigrationError):
            machine = self._machines.get(instance.uuid)
            infos = [volume["connection_info"] for volume in _mapping(block_device_info)]
            self._volumes.prepare_migration(machine.ref, self._machines.host_ref, infos)
        return migrate_data

    def live_migration(
        self, context, instance, dest, post_method, recover_method, block_migration=False, migrate_data=None
    ):
        """Move the VM from this host. If it stays, nova undoes the preparation, and gets no error from here."""
        try:
            with translated(exception.MigrationError):
                node = objects.ComputeNode.get_first_node_by_host_for_old_compat(context, dest)
                host_ref = self._machines.find_host(node.hypervisor_hostname)
                self._machines.migrate(self._machines.get(instance.uuid), host_ref)
        except Exception:
            LOG.exception("the live migration failed", instance=instance)
            recover_method(context, instance, dest, migrate_data)
        else:
            post_method(context, instance, dest, block_migration, migrate_data)

    def post_live_migration(self, context, instance, block_device_info, migrate_data=None):
        """Disconnect the volumes from this host, the source. The VM has moved, so an error would undo nothing."""
        with logged("the disconnect of volumes after a live migration", instance):
            self._volumes.undo_migration(self._machines.get(instance.uuid).ref, self._machines.host_ref)

    def post_live_migration_at_source(self, context, instance, network_info):
        """Do nothing: there are no networks."""

    def post_live_migration_at_destination(
        self, context, instance, network_info, block_migration=False, block_device_info=None
    ):
        """Let the VM belong to this host, and its disks to the attachments that Cinder made for this host."""
        with translated(exception.MigrationError):
            machine = self._machines.get(instance.uuid)
            self._machines.settle(machine)
            self._attach_all(machine, instance, block_device_info)

    # --- resources -----------------------------------------------------------------------------------------

    def get_available_nodes(self, refresh=False):
        return [self._machines.host_name]

    def get_host_ip_addr(self):
        return str(CONF.my_ip)

    def get_available_resource(self, nodename):
        with translated():
            return resources.compute_node(self._machines.read_host(), nodename)

    def update_provider_tree(self, provider_tree, nodename, allocations=None):
        with translated():
            record = self._machines.read_host()
        ratios = self._get_allocation_ratios(provider_tree.data(nodename).inventory)
        provider_tree.update_inventory(nodename, resources.inventory(record, ratios))


def _mapping(block_device_info: Any) -> list[Any]:
    volumes: list[Any] = driver.block_device_info_get_mapping(block_device_info)
    return volumes


def _check_supported(instance: Any, files: Any, network_info: Any, block_device_info: Any) -> None:
    """Raise BuildAbortException, after which nova tries no other host, for what no host of the pool can do."""
    local = any((block_device_info or {}).get(kind) for kind in ("image", "ephemerals", "swap"))
    for is_asked, what in (
        (network_info, "networks"),
        (local or instance.image_ref, "disks that are not volumes"),
        (files or configdrive.required_by(instance), "a config drive"),
    ):
        if is_asked:
            raise exception.BuildAbortException(
                instance_uuid=instance.uuid, reason=f"xenvol.Driver does not support {what}"
            )
