"""What nova asks of a hypervisor driver, translated into calls of `VolumeOps` and `Machines`.

`VolumeOps` keeps no state and every call of it can be repeated, so neither does this driver: what it did before it was
killed, xapi knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import nova.conf
from nova import exception, objects
from nova.compute import power_state
from nova.objects import fields
from nova.objects.migrate_data import VMwareLiveMigrateData
from nova.virt import driver, hardware, node
from nova.virt.xenvol import config
from nova.virt.xenvol.errors import translated
from nova.virt.xenvol.machines import MIB, Machine, Machines
from oslo_log import log as logging
from oslo_serialization import jsonutils
from oslo_utils import versionutils

from xenvol.volumeops import VolumeOps

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

POWER_STATES = {
    "Halted": power_state.SHUTDOWN,
    "Paused": power_state.PAUSED,
    "Running": power_state.RUNNING,
    "Suspended": power_state.SUSPENDED,
}


class Driver(driver.ComputeDriver):  # type: ignore[misc]  # nova ships no types
    """Runs servers on one host of a XenAPI pool. Their disks are volumes."""

    capabilities = driver.ComputeDriver.capabilities | {
        "supports_evacuate": True,
        "supports_extend_volume": True,
        "supports_multiattach": True,
    }

    def init_host(self, host: str) -> None:
        with translated():
            session = config.log_in()
            self._ops = VolumeOps(session)
            self._machines = Machines(session, config.host_name())
            self._session = session

    def cleanup_host(self, host: str) -> None:
        self._session.close()

    # --- servers -------------------------------------------------------------------------------------------

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
        """Create the VM, attach its volumes and start it. A VM that is there was on a host that died: it is taken over."""
        volumes = _volumes(block_device_info)
        _check_supported(instance, network_info, block_device_info)
        with translated():
            machine = self._machines.find(instance.uuid)
            was_there = machine is not None
            try:
                machine = self._create(instance) if machine is None else self._machines.take_over(machine)
                for volume in volumes:
                    self._ops.attach_volume(
                        volume["connection_info"],
                        machine.ref,
                        volume["mount_device"],
                        bootable=volume["mount_device"] == instance.root_device_name,
                    )
                if power_on:
                    self._machines.start(machine)
            except BaseException:
                if not was_there:
                    self._clean_up(context, instance, block_device_info)
                raise

    def _create(self, instance: Any) -> Machine:
        return self._machines.create(
            instance.uuid,
            description=instance.display_name or "",
            memory_mb=instance.flavor.memory_mb,
            vcpus=instance.flavor.vcpus,
            platform=CONF.xenvol.platform,
        )

    def _clean_up(self, context: Any, instance: Any, block_device_info: Any) -> None:
        """Destroy what a failed spawn made, also if the answer was lost. The spawn's error leaves, whatever happens."""
        try:
            self.destroy(context, instance, None, block_device_info)
        except Exception:
            LOG.exception("what a failed spawn made could not be destroyed", instance=instance)

    def destroy(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        """Halt the VM, detach its volumes and destroy it. Idempotent. Spares a VM that has gone to another host."""
        with translated():
            machine = self._machines.find(instance.uuid)
            if machine is None:
                for volume in _volumes(block_device_info):
                    self._ops.disconnect_volume(volume["connection_info"])
            elif machine.host_ref in (None, self._machines.host_ref):
                self._machines.stop(machine)
                for volume in _volumes(block_device_info):
                    self._ops.detach_volume(volume["connection_info"], machine.ref)
                self._ops.detach_all(machine.ref)  # volumes that nova has forgotten
                self._machines.destroy(machine)

    def cleanup(self, *arguments: Any, **options: Any) -> None:
        """Do nothing: `destroy` leaves nothing."""

    def list_instance_uuids(self) -> list[str]:
        with translated():
            return [machine.uuid for machine in self._machines.list()]

    def list_instances(self) -> list[str]:
        return self.list_instance_uuids()

    def get_info(self, instance: Any, use_cache: bool = True) -> Any:
        with translated():
            return hardware.InstanceInfo(POWER_STATES[self._machines.get(instance.uuid).power_state])

    # --- volumes -------------------------------------------------------------------------------------------

    def get_volume_connector(self, instance: Any) -> dict[str, Any]:
        with translated():
            return self._ops.get_connector(self._machines.host_ref)

    def default_root_device_name(self, instance: Any, image_meta: Any, root_bdm: Any) -> str:
        return "/dev/xvda"

    def attach_volume(
        self,
        context: Any,
        connection_info: Mapping[str, Any],
        instance: Any,
        mountpoint: str,
        disk_bus: Any = None,
        device_type: Any = None,
        encryption: Any = None,
    ) -> None:
        with translated(exception.VolumeAttachFailed, volume_id=connection_info.get("serial")):
            machine = self._machines.get(instance.uuid)
            self._ops.attach_volume(connection_info, machine.ref, mountpoint)

    def detach_volume(
        self,
        context: Any,
        connection_info: Mapping[str, Any],
        instance: Any,
        mountpoint: str,
        encryption: Any = None,
    ) -> None:
        with translated(exception.DeviceDetachFailed, device=mountpoint):
            machine = self._machines.find(instance.uuid)
            if machine is None:
                self._ops.disconnect_volume(connection_info)
            else:
                self._ops.detach_volume(connection_info, machine.ref)

    # --- resources -----------------------------------------------------------------------------------------

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        return [self._machines.host_name]

    def get_host_ip_addr(self) -> str:
        return str(CONF.my_ip)

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        with translated():
            host = self._machines.host()
        version = host["software_version"]["product_version"]
        return {
            "uuid": node.get_local_node_uuid(),
            "hypervisor_type": "XenServer",
            "hypervisor_version": versionutils.convert_version_to_int(version),
            "hypervisor_hostname": nodename,
            "supported_instances": [
                (fields.Architecture.X86_64, fields.HVType.XEN, fields.VMMode.HVM),
            ],
            "vcpus": int(host["cpu_info"]["cpu_count"]),
            "memory_mb": host["memory_total"] // MIB,
            "cpu_info": jsonutils.dumps(
                {"vendor": host["cpu_info"]["vendor"], "model": host["cpu_info"]["modelname"]}
            ),
            "numa_topology": None,
            **dict.fromkeys(
                ("vcpus_used", "memory_mb_used", "local_gb", "local_gb_used", "disk_available_least"), 0
            ),
        }

    def update_provider_tree(self, provider_tree: Any, nodename: str, allocations: Any = None) -> None:
        """Offer the host's processors and memory. It offers no disk, so no server with a local disk is sent here."""
        resources = self.get_available_resource(nodename)
        ratios = self._get_allocation_ratios(provider_tree.data(nodename).inventory)
        totals = {
            "VCPU": (resources["vcpus"], CONF.reserved_host_cpus),
            "MEMORY_MB": (resources["memory_mb"], CONF.reserved_host_memory_mb),
        }
        inventory = {
            kind: {
                "total": total,
                "reserved": reserved,
                "min_unit": 1,
                "max_unit": total,
                "step_size": 1,
                "allocation_ratio": ratios[kind],
            }
            for kind, (total, reserved) in totals.items()
        }
        provider_tree.update_inventory(nodename, inventory)


def _volumes(block_device_info: Mapping[str, Any] | None) -> list[Any]:
    return driver.block_device_info_get_mapping(block_device_info)


def _check_supported(instance: Any, network_info: Any, block_device_info: Any) -> None:
    """Raise BuildAbortException, so that nova tries no other host, for what no host of the pool can do."""
    if network_info:
        raise exception.BuildAbortException(instance_uuid=instance.uuid, reason="xenvol.Driver has no networks")
    if instance.image_ref:
        raise exception.BuildAbortException(
            instance_uuid=instance.uuid, reason="xenvol.Driver starts servers from volumes only"
        )
