"""xapi's own doors for disks, which are open on every host and from everywhere; what came of it is the task's to say.

A disk is filled in xapi's own chunks, each with its place: holes are not sent, pieces may come in any order, and a
stream that is cut off has no end marker, so that xapi knows. (Of a plain body it only knows when it has a length, and
then zeros must be sent.) The head is sent alone, and 200, a refusal or a redirect is awaited before any byte of the
disk: xapi answers before it reads (facts/sm-truth.md, HTTP image transfer), so that no byte goes to a wrong host.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from xenvol.errors import XapiUnreachable
from xenvol.images.disk_image import VHD_MAX, DiskImage, Piece, Stream
from xenvol.images.errors import ImageTooLarge, NoTransport, TransferFailed
from xenvol.images.transports.base import TIMEOUTS, Timeouts, Transport, fitting
from xenvol.images.transports.download import DiskDownload, RawContents, VHDContents, read_layer
from xenvol.images.transports.exchange import Broken, Exchange, begin
from xenvol.images.transports.tasks import TransferTask, transfer_task
from xenvol.pool.view import View
from xenvol.secret import MASK
from xenvol.session import Endpoint, Session
from xenvol.session.endpoint import NotConnected
from xenvol.session.refs import HostRef, SRRef, VDIRef

IMPORT: Final = "PUT /import_raw_vdi"
EXPORT: Final = "GET /export_raw_vdi"
VHD_BLOCK: Final = 2 << 20
"""Bytes; disks that are VHDs are multiples of it, and raw ones, such as ISO images, of any size."""
NO_ENDPOINT: Final = (
    "the session was logged in by somebody else and has no address; use xenvol.connect, or give endpoint"
)
_LOOK: Final = 5.0  # seconds without a word from the host after which its task is asked
_TAG = re.compile(r"<[^>]*>")
_EXCERPT: Final = 300  # characters of what a host says, in a message


@dataclass(frozen=True, slots=True)
class Disk:
    """What there is to know of a VDI before its bytes go or come."""

    ref: VDIRef
    uuid: str
    sr_ref: SRRef
    size: int


class HTTPTransport(Transport):
    """Filling, or reading, costs five calls and the transfer: two look for the hosts, the task takes three."""

    name = "http"

    def __init__(
        self,
        view: View,
        session: Session,
        *,
        endpoint: Endpoint | None = None,
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        """`endpoint`: any host of the pool, for a session that has none since somebody else has logged in."""
        self._view = view
        self._session = session
        self._endpoint = endpoint
        self._timeouts = timeouts

    def __repr__(self) -> str:
        return f"<HTTPTransport by {self._endpoint or self._session.endpoint}>"

    def fill(self, vdi_ref: VDIRef, pieces: Iterable[Piece]) -> None:
        disk = self._disk(vdi_ref)
        feed = fitting(pieces, disk.size, f"VDI {disk.uuid}")
        broken, is_whole = None, False
        with self._exchange(disk, IMPORT, f"writing VDI {disk.uuid}", format="raw", chunked="true") as (
            task,
            exchange,
        ):
            try:
                exchange.send(feed)
                is_whole = True
                self._await_end(task, exchange)
            except Broken as error:
                broken = error.cause
            exchange.close()
            task.judge(broken)
            if not is_whole:
                raise TransferFailed(task.what, problem="the connection broke, and yet its task says success")

    @contextmanager
    def contents(self, vdi_ref: VDIRef) -> Iterator[DiskImage]:
        disk = self._disk(vdi_ref)
        if disk.size <= VHD_MAX and disk.size % VHD_BLOCK == 0:  # a VHD is rounded up
            with self._download(disk, format="vhd") as stream:
                layer = read_layer(stream, disk.size)
                if layer is not None:
                    yield VHDContents(layer, stream)
                    return
        with self._download(disk, format="raw") as stream:
            yield RawContents(disk.size, stream)

    @contextmanager
    def vhd_stream(self, vdi_ref: VDIRef, *, base: VDIRef | None = None) -> Iterator[Stream]:
        """The disk as xapi's VHD of it, or of what differs from `base`; none of it is known to be good before its end.

        Its length is not known. `read` gives no bytes at the end only when the task has succeeded, and raises
        TransferFailed otherwise: what has been read till then may end in the text of an error. Raises ImageTooLarge.
        """
        disk = self._disk(vdi_ref)
        if disk.size > VHD_MAX:
            raise ImageTooLarge(f"VDI {disk.uuid}", size=disk.size, limit=VHD_MAX, what="a VHD")
        query = {"format": "vhd"} if base is None else {"format": "vhd", "base": base}
        with self._download(disk, **query) as stream:
            yield stream

    # ---- one transfer

    def _disk(self, vdi_ref: VDIRef) -> Disk:
        """Read it, and the pool's hosts along; one call."""
        self._view.read({"VDI": [vdi_ref]}, whole=("host", "pool"))
        vdi = self._view.record("VDI", vdi_ref)
        return Disk(vdi_ref, vdi["uuid"], SRRef(vdi["SR"]), int(vdi["virtual_size"]))

    @contextmanager
    def _download(self, disk: Disk, **query: str) -> Iterator[DiskDownload]:
        with self._exchange(disk, EXPORT, f"reading VDI {disk.uuid}", **query) as (task, exchange):
            yield DiskDownload(task, exchange, name=f"VDI {disk.uuid}")

    @contextmanager
    def _exchange(
        self, disk: Disk, call: str, what: str, **query: str
    ) -> Iterator[tuple[TransferTask, Exchange]]:
        """An exchange that a host has agreed to. Whoever leaves before the task is judged has broken it off."""
        endpoints = self._endpoints(disk)
        with transfer_task(self._view, what, call=call, timeouts=self._timeouts) as task:
            try:
                with self._begin(task, disk, endpoints, query) as exchange:
                    yield task, exchange
            except BaseException as error:
                if not task.is_settled:
                    task.abandon(disk.ref, error)
                raise
            if not task.is_settled:
                task.abandon(disk.ref)

    def _begin(
        self, task: TransferTask, disk: Disk, endpoints: list[Endpoint], query: dict[str, str]
    ) -> Exchange:
        verb, _, path = task.call.partition(" ")
        query = {"vdi": disk.ref, "task_id": task.ref, **query}
        is_renewed = False
        while True:
            session_ref = self._session.handle
            try:
                exchange = begin(
                    endpoints,
                    verb,
                    path,
                    query,
                    session_ref=session_ref,
                    follow=lambda location: self._follow(task, location),
                    timeouts=self._timeouts,
                )
            except NotConnected as error:
                task.is_settled = True  # no host has heard of it
                raise XapiUnreachable(task.call, error) from error
            except Broken as error:
                task.judge(error.cause)
                raise TransferFailed(task.what, problem=f"the connection broke ({error})") from error
            if exchange.status == 200:
                return exchange
            with exchange:
                if exchange.status == 401 and not is_renewed:
                    task.is_over()  # a call that goes the session's way, on which it is renewed
                    is_renewed = True
                    if self._session.handle != session_ref:
                        continue
                self._refuse(task, exchange, session_ref)

    def _refuse(self, task: TransferTask, exchange: Exchange, session_ref: str) -> NoReturn:
        """The host said no, and has not begun; a task that has not failed by now stays pending for ever."""
        task.is_settled = True
        said = exchange.said(_LOOK)
        if exchange.status != 401 and task.is_over():
            task.check(status=exchange.status)
        text = _TAG.sub(" ", said.decode(errors="replace").replace(session_ref, MASK))
        problem = (
            f"the host answered HTTP {exchange.status}: {' '.join(text.split())[:_EXCERPT] or 'nothing more'}"
        )
        raise TransferFailed(task.what, problem=problem, status=exchange.status)

    def _await_end(self, task: TransferTask, exchange: Exchange) -> None:
        """Until the host hangs up, or the task is over. Raises Broken."""
        clock = self._timeouts.clock
        deadline = clock() + self._timeouts.finish
        while not exchange.is_readable(min(_LOOK, self._timeouts.finish)):
            if task.is_over():
                return
            if clock() > deadline:
                raise Broken(TimeoutError(f"the host has not finished after {self._timeouts.finish:.0f} s"))
        exchange.said(_LOOK)  # nothing, or the page of an error, of which the task knows more

    # ---- hosts

    @property
    def _base(self) -> Endpoint:
        base = self._endpoint or self._session.endpoint
        if base is None:  # `choose` looks before anything is made
            raise NoTransport("the pool", reasons={"http": NO_ENDPOINT})
        return base

    def _endpoints(self, disk: Disk) -> list[Endpoint]:
        """Where to go: the hosts that have the SR plugged, the master first. One call. Raises NoTransport."""
        pbds = self._view.find("PBD", {"SR": disk.sr_ref, "currently_attached": True})
        hosts = self._view.all("host")
        plugged = [HostRef(pbd["host"]) for pbd in pbds.values() if pbd["host"] in hosts]
        if not plugged:
            raise NoTransport(
                f"VDI {disk.uuid}", reasons={"http": "its SR is plugged on no host; plug a PBD of it first"}
            )
        plugged.sort(key=lambda ref: (ref != self._view.master, not hosts[ref]["enabled"]))
        base = self._base
        found = [base] if self._endpoint is not None else []  # of which nobody knows which host it is
        for ref in plugged:
            if self._endpoint is None and ref == self._view.master:
                found.append(base)
                continue
            with suppress(NotConnected):  # no address yet, or one to which the session may not go
                found.append(base.at(hosts[ref]["address"]))
        return found

    def _follow(self, task: TransferTask, location: str) -> Endpoint:
        """Where a redirect leads, if that is a host of the pool: nobody else gets the session."""
        address = urllib.parse.urlsplit(location).hostname or ""
        for host in self._view.all("host").values():
            if host["address"] and _same_address(host["address"], address):
                return self._base.at(host["address"])
        task.is_settled = True
        raise TransferFailed(
            task.what, problem=f"the host sends us to {address or 'nowhere'}, which is no host of the pool"
        )


def _same_address(one: str, other: str) -> bool:
    return one.strip("[]").lower() == other.strip("[]").lower()
