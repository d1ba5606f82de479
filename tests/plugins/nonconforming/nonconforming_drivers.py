"""Drivers that each break one requirement; all else they inherit from the example, which breaks none."""

import contextlib
import dataclasses

import acme_xenvol.driver
from acme_xenvol.driver import SMBDriver

from xenvol import storage
from xenvol.errors import DriverError, VolumeNotFound, XapiError, XapiUnreachable, XenVolError
from xenvol.pool.undo import Undo
from xenvol.pool.view import View


class Conforming(SMBDriver):
    pass


class CallsInItsConstructor(SMBDriver):
    def __init__(self, session, *, hosts=None):
        super().__init__(session, hosts=hosts)
        self.pool = session.xenapi.pool.get_all()


class ChangesTheData(SMBDriver):
    def connect_volume(self, connection_data):
        connection_data["seen"] = True
        return super().connect_volume(connection_data)


class CopiesTheData(SMBDriver):
    def connect_volume(self, connection_data):
        return super().connect_volume(connection_data.copy())


class CreatesADisk(SMBDriver):
    def connect_volume(self, connection_data):
        with contextlib.suppress(DriverError):
            self.session.xenapi.VDI.create({"name_label": "scratch"})
        return super().connect_volume(connection_data)


class GoesOnWhenForbidden(SMBDriver):
    def connect_volume(self, connection_data):
        try:
            return super().connect_volume(connection_data)
        except DriverError as error:
            raise VolumeNotFound("the disk") from error


class LooksUpKeysBlindly(SMBDriver):
    def connect_volume(self, connection_data):
        for key in ("export", "sr_uuid", "vdi_uuid", "username", "password"):
            connection_data[key]
        return super().connect_volume(connection_data)


class BlamesAnotherKey(SMBDriver):
    def connect_volume(self, connection_data):
        if "sr_uuid" not in connection_data:
            raise acme_xenvol.driver.refusal("username", acme_xenvol.driver.SMBConnectionData, driver="smb")
        return super().connect_volume(connection_data)


class ChecksItsKeysTooLate(SMBDriver):
    def connect_volume(self, connection_data):
        if "vdi_uuid" not in connection_data:
            call = View.of(self.session).call
            sr_ref = call("SR.introduce", connection_data.get("sr_uuid", ""), "", "", "smb", "", True, {})
            self.undo.did("introduced it", call, "SR.forget", sr_ref)
        return super().connect_volume(connection_data)


class DoesNotLookAtTheSize(SMBDriver):
    def connect_volume(self, connection_data):
        return super().connect_volume(
            {key: value for key, value in connection_data.items() if "size" not in key}
        )


class KnowsOnlyTheMaster(SMBDriver):
    def connect_volume(self, connection_data):
        self.hosts = [View.of(self.session).master]
        return super().connect_volume(connection_data)


class ReturnsTheUuid(SMBDriver):
    def connect_volume(self, connection_data):
        super().connect_volume(connection_data)
        return connection_data["vdi_uuid"]


class IntroducesItAgain(SMBDriver):
    def connect_volume(self, connection_data):
        view = View.of(self.session)
        if storage.find_sr(view, connection_data.get("sr_uuid", "")) is not None:
            raise VolumeNotFound("a free uuid for the SR")
        return super().connect_volume(connection_data)


class DisconnectsOnlyWhatHasNoDisks(SMBDriver):
    def disconnect_volume(self, connection_data):
        view = View.of(self.session)
        sr_ref = storage.find_sr(view, connection_data["sr_uuid"])
        if sr_ref is not None and not storage.vdis_of(view, sr_ref):
            super().disconnect_volume(connection_data)


class WantsItConnected(SMBDriver):
    def disconnect_volume(self, connection_data):
        if storage.find_sr(View.of(self.session), connection_data["sr_uuid"]) is None:
            raise VolumeNotFound("the SR")
        super().disconnect_volume(connection_data)


class LeaksWhenThePlugFails(SMBDriver):
    def connect_volume(self, connection_data):
        try:
            return super().connect_volume(connection_data)
        except XapiError as error:
            if error.call == "PBD.plug":
                self.undo.forget()
            raise


class RecordsNothing(SMBDriver):
    def connect_volume(self, connection_data):
        vdi_ref = super().connect_volume(connection_data)
        self.undo.forget()
        return vdi_ref


class RollsBackByDisconnecting(SMBDriver):
    def rollback(self, connection_data):
        with contextlib.suppress(XenVolError):
            self.disconnect_volume(connection_data)


class RaisesInRollback(SMBDriver):
    def rollback(self, connection_data):
        if self.undo.pending:
            super().rollback(connection_data)
            raise ValueError("it had to be taken back")


class HidesRefusals(SMBDriver):
    def connect_volume(self, connection_data):
        try:
            return super().connect_volume(connection_data)
        except XapiError:
            raise VolumeNotFound("the disk") from None


class HidesSilence(SMBDriver):
    def connect_volume(self, connection_data):
        try:
            return super().connect_volume(connection_data)
        except XapiUnreachable:
            raise VolumeNotFound("the disk") from None


class IgnoresRefusalsOfForget(SMBDriver):
    def disconnect_volume(self, connection_data):
        try:
            super().disconnect_volume(connection_data)
        except XapiError as error:
            if error.call != "SR.forget":
                raise


class LeavesTheSecretOfADeadAttempt(SMBDriver):
    def disconnect_volume(self, connection_data):
        keys = acme_xenvol.driver._read(connection_data)
        storage.disconnect_disk(View.of(self.session), keys.sr_uuid, keys.vdi_uuid)


class TriesAnySRType(SMBDriver):
    def connect_volume(self, connection_data):
        view = View.of(self.session)
        keys = acme_xenvol.driver._read(connection_data)
        storage.connect_sr(view, self.undo, acme_xenvol.driver._spec(keys), self.hosts)
        return super().connect_volume(connection_data)


class ForgetsAnybodysSR(SMBDriver):
    def disconnect_volume(self, connection_data):
        view = View.of(self.session)
        sr_ref = storage.find_sr(view, connection_data["sr_uuid"])
        if sr_ref is not None and not any(vdi["VBDs"] for vdi in storage.vdis_of(view, sr_ref).values()):
            for pbd_ref in view.record("SR", sr_ref)["PBDs"]:
                storage.pbd.unplug_unless_used(view, pbd_ref)
            view.call("SR.forget", sr_ref)
        super().disconnect_volume(connection_data)


class TakesWhatVMsUse(SMBDriver):
    def disconnect_volume(self, connection_data):
        view = View.of(self.session)
        sr_ref = storage.find_sr(view, connection_data["sr_uuid"])
        if sr_ref is not None and storage.is_ours(view.record("SR", sr_ref)):
            for pbd_ref in reversed(view.record("SR", sr_ref)["PBDs"]):
                storage.pbd.unplug_pbd(view, Undo(), pbd_ref)
            view.call("SR.forget", sr_ref)
        super().disconnect_volume(connection_data)


class WritesThePasswordIntoSMConfig(SMBDriver):
    def connect_volume(self, connection_data):
        view = View.of(self.session)
        keys = acme_xenvol.driver._read(connection_data)
        spec = acme_xenvol.driver._spec(keys)
        if keys.password is not None:
            spec = dataclasses.replace(spec, sm_config={"smb": keys.password.reveal()})
        storage.require_sr_type(view, spec.type)
        if storage.find_vdi(view, keys.vdi_uuid) is None:
            storage.connect_sr(view, self.undo, spec, self.hosts)
        return super().connect_volume(connection_data)


class ShowsThePasswordInItsRepr(SMBDriver):
    def connect_volume(self, connection_data):
        password = acme_xenvol.driver._read(connection_data).password
        self.password = None if password is None else password.reveal()
        return super().connect_volume(connection_data)

    def __repr__(self):
        return f"<{type(self).__name__} {vars(self)}>"


class WalksThroughAllSRs(SMBDriver):
    def connect_volume(self, connection_data):
        acme_xenvol.driver._read(connection_data)
        view = View.of(self.session)
        for sr_ref in view.call("SR.get_all"):
            view.record("SR", sr_ref)
        return super().connect_volume(connection_data)


class SeesNoGrowth(SMBDriver):
    def extend_volume(self, connection_data):
        (_, vdi) = storage.find_vdi(View.of(self.session), connection_data["vdi_uuid"])
        return int(vdi["virtual_size"])


class NamesNoVolume(SMBDriver):
    def connect_volume(self, connection_data):
        try:
            return super().connect_volume(connection_data)
        except VolumeNotFound as error:
            raise RuntimeError(str(error)) from error


class TellsVolumesByTheirPassword(SMBDriver):
    def volume_key(self, connection_data):
        return f"{connection_data['vdi_uuid']} {connection_data['password'].reveal()}"


class TellsVolumesByTheirShare(SMBDriver):
    def volume_key(self, connection_data):
        return connection_data["export"]


class InheritsNothing:
    """A driver by its methods alone, and of those only the ones that are asked for."""

    def __init__(self, session, *, hosts=None):
        self._driver = SMBDriver(session, hosts=hosts)

    def connect_volume(self, connection_data):
        return self._driver.connect_volume(connection_data)

    def disconnect_volume(self, connection_data):
        self._driver.disconnect_volume(connection_data)

    def rollback(self, connection_data):
        self._driver.rollback(connection_data)
