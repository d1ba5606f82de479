"""A Cinder volume driver that translates Cinder's calls into the Storage Manager's, and xenvol's errors into Cinder's.

    volume_driver = xenvol.cinder.XenSMDriver

The Storage Manager knows a volume by its `name_id` in Cinder: that is its id, until a migration has given it the disk
of another volume. It knows a snapshot by its id. Cinder's pools are flavors; its sizes are GiB. The driver keeps no
state, so any process can do the next step, and any step can be repeated. An error keeps xenvol's text, so that Cinder's
log shows the cause and the remedy.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from cinder import exception, interface
from cinder.volume import configuration, driver, volume_utils
from oslo_config import cfg

import xenvol
from xenvol.cinder import images as cinder_images
from xenvol.errors import RequestError, VolumeInUse, XenVolError
from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.sm import StorageManager
from xenvol.sm import errors as sm_errors
from xenvol.sm.capacity import BackendStats

LOG = logging.getLogger(__name__)

GIB = 1 << 30
PROTOCOL = "xensm"  # Cinder has no constant for it: it means xenvol's connection_info, not a wire protocol
FLAVOR_KEY = "xenvol:flavor"
_REFERENCE_KEYS = ("source-id", "source-name")  # what Cinder's API accepts in a reference

OPTIONS = [
    cfg.ListOpt(
        "xenvol_url",
        help="The pool: https://host of its master or of any member. Several are tried in turn.",
    ),
    cfg.StrOpt("xenvol_user", default="root", help="The user that logs in to the pool."),
    cfg.StrOpt("xenvol_password_file", help="The file whose first line is the password of xenvol_user."),
    cfg.StrOpt(
        "xenvol_ca_file",
        help="Certificates of the authorities that sign the hosts' certificates. Default: the system's.",
    ),
    cfg.ListOpt(
        "xenvol_fingerprint",
        help="Instead of xenvol_ca_file: the SHA-256 of the certificate of each host of the pool.",
    ),
    cfg.BoolOpt(
        "xenvol_insecure",
        default=False,
        help="Instead of xenvol_ca_file: trust any server. For tests.",
    ),
    cfg.StrOpt(
        "xenvol_database",
        secret=True,  # a URL with a password in it
        help="The Storage Manager's database, as `xenvol sm --database` takes it.",
    ),
    cfg.StrOpt(
        "xenvol_default_flavor",
        help="The flavor of volumes whose type has no extra spec xenvol:flavor. Without this option, the pool that "
        "the scheduler chose is the flavor.",
    ),
    cfg.BoolOpt(
        "xenvol_introduce_sr",
        default=False,
        help="Say in each connection_info how to introduce the SR, for hypervisors of a pool that does not have it.",
    ),
    cfg.ListOpt(
        "xenvol_connection_secrets",
        help="With xenvol_introduce_sr: the keys of the backends' passwords that a connection_info may contain, such "
        "as chappassword. Whoever may read an attachment can read them. Default: none.",
    ),
]

cfg.CONF.register_opts(OPTIONS, group=configuration.SHARED_CONF_GROUP)


@interface.volumedriver
class XenSMDriver(driver.VolumeDriver):  # type: ignore[misc]  # cinder ships no types
    """Makes volumes as VDIs of a XenAPI pool, on the SRs of xenvol's Storage Manager."""

    VERSION = "1.0.0"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(OPTIONS)
        self._session: Session | None = None
        self._manager: StorageManager | None = None

    @staticmethod
    def get_driver_options() -> list[Any]:
        return OPTIONS

    # --- starting ------------------------------------------------------------------------------------------

    def do_setup(self, context: Any) -> None:
        """Log in, and set up every backend. A backend that fails is a warning in the log, and the others serve."""
        if self._session is not None:  # Cinder calls again after a start that failed
            self._session.close()
        with _translated():
            self._session = self._log_in()
            self._manager = StorageManager(self._session, self._required("xenvol_database"))
            for report in self._manager.do_setup():
                if report.error is not None:
                    LOG.warning("Backend %s is out of order: %s", report.backend, report.error)

    def check_for_setup_error(self) -> None:
        default = self._option("xenvol_default_flavor")
        with _translated():
            labels = [flavor.label for flavor in self.manager.list_flavors()]
        if default is not None and default not in labels:
            raise exception.InvalidConfigurationValue(option="xenvol_default_flavor", value=default)
        if not labels:
            raise exception.VolumeDriverException(
                message="the Storage Manager has no flavors: make one with `xenvol sm flavor_create`, and give "
                "it a backend with `xenvol sm backend_add`"
            )

    @property
    def manager(self) -> StorageManager:
        if self._manager is None:
            raise exception.DriverNotInitialized()
        return self._manager

    @property
    def session(self) -> Session:
        if self._session is None:
            raise exception.DriverNotInitialized()
        return self._session

    def _log_in(self) -> Session:
        password_file = self._required("xenvol_password_file")
        try:
            password = Secret(Path(password_file).read_text(encoding="utf-8").partition("\n")[0])
        except (OSError, UnicodeDecodeError) as error:
            LOG.error("xenvol_password_file cannot be read: %s", error)
            raise exception.InvalidConfigurationValue(
                option="xenvol_password_file", value=password_file
            ) from error
        url = self._required("xenvol_url")
        try:
            return xenvol.connect(
                url,
                self._option("xenvol_user"),
                password,
                ca_file=self._option("xenvol_ca_file"),
                fingerprint=self._option("xenvol_fingerprint"),
                insecure=bool(self._option("xenvol_insecure")),
            )
        except ValueError as error:  # a wrong address, or two ways to trust it
            LOG.error("xenvol cannot use the options of the pool: %s", error)
            # do not quote the value: it may contain a password, and be refused for that
            raise exception.InvalidConfigurationValue(option="xenvol_url", value="(see the log)") from error

    def _option(self, name: str) -> Any:
        """Return an option's value; None if it is missing or empty."""
        return self.configuration.safe_get(name) or None

    def _required(self, name: str) -> Any:
        value = self._option(name)
        if value is None:
            raise exception.InvalidConfigurationValue(option=name, value="")
        return value

    # --- volumes -------------------------------------------------------------------------------------------

    def create_volume(self, volume: Any) -> dict[str, Any]:
        _check_supported(volume)
        with _translated():
            made = self.manager.create_volume(
                volume.name_id, self._wanted_flavor(volume), volume.size * GIB, name=volume.name
            )
            return self._placed(volume, made.backend_id)

    def delete_volume(self, volume: Any) -> None:
        self._delete(volume.name_id, busy=exception.VolumeIsBusy)

    def _delete(self, volume_id: str, *, busy: type[Exception]) -> None:
        """Delete a volume or a snapshot. Cinder also deletes those that were never made."""
        with _translated(busy=busy), suppress(sm_errors.UnknownVolume):
            self.manager.delete_volume(volume_id)

    def extend_volume(self, volume: Any, new_size: int) -> None:
        with _translated():
            self.manager.extend_volume(volume.name_id, new_size * GIB)

    def create_snapshot(self, snapshot: Any) -> None:
        with _translated():
            self.manager.create_snapshot(snapshot.id, snapshot.volume.name_id, name=snapshot.name)

    def delete_snapshot(self, snapshot: Any) -> None:
        self._delete(snapshot.id, busy=exception.SnapshotIsBusy)

    def create_volume_from_snapshot(self, volume: Any, snapshot: Any) -> dict[str, Any]:
        return self._clone(volume, snapshot.id, not_found=exception.SnapshotNotFound)

    def create_cloned_volume(self, volume: Any, src_vref: Any) -> dict[str, Any]:
        return self._clone(volume, src_vref.name_id, not_found=exception.VolumeNotFound)

    def _clone(self, volume: Any, source_id: str, *, not_found: type[Exception]) -> dict[str, Any]:
        """Copy a volume or a snapshot. The copy is made on the SR of its source, so its type may not ask for another
        flavor."""
        _check_supported(volume)
        with _translated(not_found=not_found):
            asked = _flavor_of_type(volume)
            has = self._flavor_of(self.manager.get_volume(source_id).backend_id)
            if asked is not None and asked != has:
                raise exception.InvalidVolumeType(
                    reason=f"its extra spec {FLAVOR_KEY} is {asked}, and a copy of {source_id} must be {has}"
                )
            made = self.manager.clone_volume(
                volume.name_id, source_id, size=volume.size * GIB, name=volume.name
            )
            return self._placed(volume, made.backend_id)

    def retype(self, context: Any, volume: Any, new_type: Any, diff: Any, host: Any) -> bool:
        """Return True for a type of the same flavor, which needs no change. Another flavor needs the data to move:
        Cinder then migrates the volume, if its caller allows that."""
        with _translated():
            has = self._flavor_of(self.manager.get_volume(volume.name_id).backend_id)
        return bool((new_type.extra_specs or {}).get(FLAVOR_KEY, has) == has)

    def update_migrated_volume(
        self, context: Any, volume: Any, new_volume: Any, original_volume_status: str
    ) -> dict[str, Any]:
        """Return the model update by which `volume` has the disk of `new_volume` from now on.

        Cinder gives `new_volume` the name_id of `volume` in exchange, and deletes it: that erases the old disk, unless
        a VM has it. No row is renamed, since the row of the old disk may be in the same database, and has the id.
        """
        return {"_name_id": new_volume.name_id, "provider_location": new_volume.provider_location}

    # --- connections ---------------------------------------------------------------------------------------

    def ensure_export(self, context: Any, volume: Any) -> None:
        """Do nothing: a host reaches a VDI through its pool, without an export."""

    def create_export(self, context: Any, volume: Any, connector: Any) -> None:
        """Do nothing: there are no exports."""

    def remove_export(self, context: Any, volume: Any) -> None:
        """Do nothing: there are no exports."""

    def initialize_connection(self, volume: Any, connector: Any) -> dict[str, Any]:
        """Return the connection_info that `VolumeOps.attach_volume` takes; its driver there is `xensm`.

        It has Cinder's id of the volume, by which the compute service knows it.
        """
        with _translated():
            info = self.manager.initialize_connection(
                volume.name_id,
                connector,
                introduce=bool(self._option("xenvol_introduce_sr")),
                secrets=self._option("xenvol_connection_secrets") or (),
            )
        return {**info, "data": {**info["data"], "volume_id": volume.id}}

    def terminate_connection(self, volume: Any, connector: Any, **kwargs: Any) -> None:
        with _translated():
            self.manager.terminate_connection(volume.name_id, connector)

    # --- images --------------------------------------------------------------------------------------------

    def clone_image(
        self, context: Any, volume: Any, image_location: Any, image_meta: Any, image_service: Any
    ) -> tuple[None, bool]:
        """Return False: no image is stored where a volume could be cloned from it. Cinder uses its cache, or copies."""
        return None, False

    def copy_image_to_volume(
        self, context: Any, volume: Any, image_service: Any, image_id: str, disable_sparse: bool = False
    ) -> None:
        """Write an image to a volume that was just made; with `disable_sparse`, to one that may hold other data."""
        with _translated():
            cinder_images.copy_image_to_volume(
                self.manager, context, volume.name_id, image_service, image_id, is_blank=not disable_sparse
            )

    def copy_volume_to_image(self, context: Any, volume: Any, image_service: Any, image_meta: Any) -> None:
        """Write what a volume holds at one moment to an image; also while a VM has it, if Cinder allows that."""
        backend_name = volume_utils.extract_host(volume.service_topic_queue)
        with _translated():
            cinder_images.copy_volume_to_image(
                self.manager, context, volume, image_service, image_meta, backend_name=backend_name
            )

    # --- existing VDIs -------------------------------------------------------------------------------------

    def manage_existing(self, volume: Any, existing_ref: Mapping[str, Any]) -> dict[str, Any]:
        _check_supported(volume)
        vdi = self._vdi(existing_ref)
        asked, has = _flavor_of_type(volume), self._flavor_of_vdi(vdi)
        if has is None:
            raise _invalid(
                existing_ref,
                "it is on none of the Storage Manager's backends: `xenvol sm backend_add` adds its SR",
            )
        if asked is not None and asked != has:
            raise exception.ManageExistingVolumeTypeMismatch(
                reason=f"the type's extra spec {FLAVOR_KEY} is {asked}, and the VDI is on a backend of {has}"
            )
        try:
            with _translated():
                made = self.manager.manage_volume(volume.name_id, vdi["uuid"], name=volume.name)
                return self._placed(volume, made.backend_id)
        except exception.InvalidInput as error:
            raise _invalid(existing_ref, str(error)) from error

    def manage_existing_get_size(self, volume: Any, existing_ref: Mapping[str, Any]) -> int:
        return _gib(self._vdi(existing_ref))

    def unmanage(self, volume: Any) -> None:
        with _translated():
            self.manager.unmanage_volume(volume.name_id)

    def get_manageable_volumes(
        self, cinder_volumes: Any, marker: Any, limit: Any, offset: Any, sort_keys: Any, sort_dirs: Any
    ) -> Any:
        with _translated():
            taken = {volume.vdi_uuid: volume.id for volume in self.manager.list_volumes()}
            vdis = self._vdis_on_backends()
        known = {volume.name_id: volume.id for volume in cinder_volumes}
        entries = [_manageable(vdi, taken.get(vdi["uuid"]), known) for vdi in vdis]
        return volume_utils.paginate_entries_list(entries, marker, limit, offset, sort_keys, sort_dirs)

    def manage_existing_snapshot(self, snapshot: Any, existing_ref: Any) -> NoReturn:
        raise NotImplementedError(_NO_SNAPSHOTS)  # the base class would do nothing, and report success

    def manage_existing_snapshot_get_size(self, snapshot: Any, existing_ref: Any) -> NoReturn:
        raise NotImplementedError(_NO_SNAPSHOTS)

    def unmanage_snapshot(self, snapshot: Any) -> NoReturn:
        raise NotImplementedError(_NO_SNAPSHOTS)

    # --- statistics for the scheduler ----------------------------------------------------------------------

    def get_pool(self, volume: Any) -> str:
        with _translated():
            return self._flavor_of(self.manager.get_volume(volume.name_id).backend_id)

    def _update_volume_stats(self) -> None:
        """Report a Cinder pool for each flavor that has backends."""
        with _translated():
            stats = self.manager.stats()
        by_flavor: dict[str, list[BackendStats]] = {}
        for each in stats:
            by_flavor.setdefault(each.flavor.label, []).append(each)
        common = {
            # Cinder's list of services shows the state of the last pool, so each pool has the state of all
            "backend_state": "up" if any(map(_is_up, stats)) else "down",
            "filter_function": self.get_filter_function(),
            "goodness_function": self.get_goodness_function(),
        }
        self._stats = {
            "volume_backend_name": self._option("volume_backend_name") or type(self).__name__,
            "vendor_name": "xenvol",
            "driver_version": self.VERSION,
            "storage_protocol": PROTOCOL,
            "pools": [_pool(label, backends) | common for label, backends in by_flavor.items()],
        }

    # --- flavors -------------------------------------------------------------------------------------------

    def _wanted_flavor(self, volume: Any) -> str:
        """Return the flavor that the type names, else the default, else the pool that the scheduler chose."""
        chosen = _flavor_of_type(volume) or self._option("xenvol_default_flavor") or _pool_of(volume)
        if chosen is None:
            raise exception.InvalidVolumeType(
                reason=f"it has no extra spec {FLAVOR_KEY}, and xenvol_default_flavor is not set"
            )
        return str(chosen)

    def _flavor_of(self, backend_id: int) -> str:
        (backend,) = self.manager.list_backends(backend_id)
        return self.manager.flavor_of(backend).label

    def _placed(self, volume: Any, backend_id: int) -> dict[str, Any]:
        """Return a model update for a volume that is not in the pool that the scheduler chose.

        The scheduler ignores extra specs with a prefix, so for a type without `pool_name` it may choose any pool.
        """
        label = self._flavor_of(backend_id)
        if _pool_of(volume) == label:
            return {}
        return {"host": volume_utils.append_host(volume_utils.extract_host(volume.host, "backend"), label)}

    # --- VDIs ----------------------------------------------------------------------------------------------

    def _vdi(self, existing_ref: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the record of the VDI whose uuid the reference has."""
        given = [str(existing_ref[key]) for key in _REFERENCE_KEYS if existing_ref.get(key)]
        if len(given) != 1:
            raise _invalid(existing_ref, f"give the VDI's uuid as one of {' and '.join(_REFERENCE_KEYS)}")
        with _translated():
            found = list(self.session.find("VDI", {"uuid": given[0].lower()}).values())
        if not found:
            raise _invalid(existing_ref, "the pool has no VDI of that uuid")
        vdi: Mapping[str, Any] = found[0]
        return vdi

    def _flavor_of_vdi(self, vdi: Mapping[str, Any]) -> str | None:
        with _translated():
            sr_uuid = self.session.call("SR.get_uuid", vdi["SR"])
            for backend in self.manager.list_backends():
                if backend.sr_uuid == sr_uuid:
                    return self.manager.flavor_of(backend).label
        return None

    def _vdis_on_backends(self) -> list[Mapping[str, Any]]:
        """Return the VDIs that could become volumes: no snapshots, and no VDIs that an SR or a pool needs for
        itself."""
        sr_uuids = [
            backend.sr_uuid for backend in self.manager.list_backends() if backend.sr_uuid is not None
        ]
        srs = self.session.find("SR", {"uuid": sr_uuids}) if sr_uuids else {}
        if not srs:
            return []
        vdis = self.session.find("VDI", {"SR": list(srs), "managed": True, "is_a_snapshot": False})
        return [vdi for vdi in vdis.values() if vdi["type"] in ("user", "system")]


_NO_SNAPSHOTS = "the Storage Manager manages existing VDIs as volumes, and not as snapshots"


def _check_supported(volume: Any) -> None:
    if volume.encryption_key_id:
        raise exception.InvalidVolumeType(
            reason="it encrypts; XenAPI cannot decrypt a volume, and the guest would get the ciphertext"
        )


def _flavor_of_type(volume: Any) -> str | None:
    """Return the extra spec of the volume's type; None if it has no type, or the type has no such spec."""
    if volume.volume_type_id is None or volume.volume_type is None:
        return None
    flavor: str | None = (volume.volume_type.extra_specs or {}).get(FLAVOR_KEY)
    return flavor


def _pool_of(volume: Any) -> str | None:
    pool: str | None = volume_utils.extract_host(volume.host, "pool")
    return pool


def _is_up(stats: BackendStats) -> bool:
    return stats.backend.state == "ready" and stats.backend.problem is None


def _pool(label: str, backends: Sequence[BackendStats]) -> dict[str, Any]:
    """Return a flavor as the scheduler sees it: the sizes of its roomiest backend, since a volume lies on one.

    With the sums, the scheduler would choose the flavor for a volume that no backend takes. Backends whose disks are
    LUNs have no room: no new volume is placed there.
    """
    up = [each.backend for each in backends if _is_up(each)]
    making = [backend for backend in up if not backend.type.luns]
    roomiest = max(making, key=lambda backend: backend.free, default=None)
    flavor = backends[0].flavor
    size, used, promised = (
        (0, 0, 0)
        if roomiest is None
        else (roomiest.physical_size, roomiest.physical_utilisation, roomiest.virtual_allocation)
    )
    return {
        "pool_name": label,
        "total_capacity_gb": _rounded(size),
        "free_capacity_gb": _rounded(max(0, size - used)),
        "provisioned_capacity_gb": _rounded(promised),
        "max_over_subscription_ratio": flavor.over_subscription,
        "reserved_percentage": flavor.reserved_percentage,
        "thin_provisioning_support": roomiest is not None and roomiest.is_thin,
        "thick_provisioning_support": roomiest is not None and not roomiest.is_thin,
        "total_volumes": sum(each.volumes for each in backends),
        "multiattach": False,  # a VDI of an SR that makes disks belongs to one VM at a time
        # without it the scheduler refuses every volume of a server, also of one that is shut down
        "online_extend_support": any(backend.has("VDI_RESIZE") for backend in up),
        "QoS_support": False,
    }


def _rounded(size: int) -> float:
    return round(size / GIB, 2)


def _gib(vdi: Mapping[str, Any]) -> int:
    """Return the size in GiB, rounded up as Cinder demands."""
    return -(-int(vdi["virtual_size"]) // GIB)


def _manageable(vdi: Mapping[str, Any], volume_id: str | None, known: Mapping[str, str]) -> dict[str, Any]:
    """Return what Cinder shows of a VDI that it could manage. `known` maps the Storage Manager's ids to Cinder's."""
    if volume_id is not None:
        reason = "it is a volume already" if volume_id in known else "it is a volume of another service"
    elif vdi["VBDs"]:
        reason = "a VM has it as a disk"
    else:
        reason = None
    return {
        "reference": {"source-name": vdi["uuid"]},
        "size": _gib(vdi),
        "safe_to_manage": reason is None,
        "reason_not_safe": reason,
        "cinder_id": None if volume_id is None else known.get(volume_id),
        "extra_info": {
            "name_label": vdi["name_label"]
        },  # a dict: the interface's documentation says string, and is wrong
    }


def _invalid(existing_ref: Mapping[str, Any], reason: str) -> Exception:
    error: Exception = exception.ManageExistingInvalidReference(existing_ref=existing_ref, reason=reason)
    return error


@contextmanager
def _translated(
    *,
    busy: type[Exception] | None = None,
    not_found: type[Exception] = exception.VolumeNotFound,
) -> Iterator[None]:
    """Raise xenvol's errors as the Cinder errors that mean the same, with xenvol's text.

    `busy` is for deletes: it tells Cinder that nothing was done, and that the volume is unharmed.
    """
    try:
        yield
    except XenVolError as error:
        words = "; ".join([str(error), *getattr(error, "__notes__", ())])
        if busy is not None and isinstance(error, VolumeInUse | sm_errors.NotSupported):
            raise busy(words) from error
        if isinstance(error, sm_errors.UnknownVolume):
            raise not_found(words) from error
        if isinstance(error, sm_errors.UnknownFlavor):
            raise exception.InvalidVolumeType(reason=words) from error
        if isinstance(error, RequestError):
            raise exception.InvalidInput(reason=words) from error
        raise exception.VolumeBackendAPIException(data=words) from error
