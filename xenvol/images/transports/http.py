"""xapi's HTTP handlers for disks, which every host offers; the task tells the result.

xenvol sends a disk in xapi's chunks, each with its offset. So it skips holes, sends pieces in any order, and xapi
recognises a stream without its end marker as cut off. (A plain body would need a length, and all zeros.) xenvol
sends the head alone, and waits for 200, a refusal or a redirect before the first byte of the disk. xapi answers
before it reads (docs/background/recordings.md, HTTP image transfer), so no byte goes to a wrong host.
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
from xenvol.storage.srtypes import VHD_BLOCK

IMPORT: Final = "PUT /import_raw_vdi"
EXPORT: Final = "GET /export_raw_vdi"
NO_ENDPOINT: Final = (
    "the session has no address, since xenvol has not logged it in; use xenvol.connect, or give endpoint"
)
_LOOK: Final = 5.0  # seconds of silence after which xenvol asks the task
_TAG = re.compile(r"<[^>]*>")
_EXCERPT: Final = 300  # characters of a host's answer in a message


@dataclass(frozen=True, slots=True)
class Disk:
    """The facts about a VDI that a transfer needs."""

    ref: VDIRef
    uuid: str
    sr_ref: SRRef
    size: int


class HTTPTransport(Transport):
    """Filling, or reading, costs five calls and the transfer: two find the hosts, the task takes three."""

    name = "http"

    def __init__(
        self,
        view: View,
        session: Session,
        *,
        endpoint: Endpoint | None = None,
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        """`endpoint`: any host of the pool, for a session that the caller logged in without xenvol."""
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
                raise TransferFailed(task.what, problem="the connection broke, but its task succeeded")

    @contextmanager
    def contents(self, vdi_ref: VDIRef) -> Iterator[DiskImage]:
        disk = self._disk(vdi_ref)
        if sends_vhd(disk.size):
            with self._download(disk, format="vhd") as stream:
                layer = read_layer(stream, disk.size)
                if layer is not None:
                    yield VHDContents(layer, stream)
                    return
        with self._download(disk, format="raw") as stream:
            yield RawContents(disk.size, stream)

    @contextmanager
    def vhd_stream(self, vdi_ref: VDIRef, *, base: VDIRef | None = None) -> Iterator[Stream]:
        """Give xapi's VHD of the disk, or of its differences from `base`.

        Its length is not known. `read` ends only when the task has succeeded, and raises TransferFailed otherwise.
        So bytes that were read before may be an error text. Raises ImageTooLarge, ValueError for a disk of which a host
        sends no VHD (`sends_vhd`).
        """
        disk = self._disk(vdi_ref)
        if disk.size > VHD_MAX:
            raise ImageTooLarge(f"VDI {disk.uuid}", size=disk.size, limit=VHD_MAX, what="a VHD")
        if not sends_vhd(disk.size):
            raise ValueError(
                f"a host never ends sending a VHD of {disk.size} bytes, which are no multiple of 2 MiB"
            )
        query = {"format": "vhd"} if base is None else {"format": "vhd", "base": base}
        with self._download(disk, **query) as stream:
            yield stream

    # ---- one transfer

    def _disk(self, vdi_ref: VDIRef) -> Disk:
        """Read the VDI and the pool's hosts; one call."""
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
        """Give an exchange that a host has accepted. Leaving the block before the task is judged ends the transfer."""
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
                task.is_settled = True  # no host has received it
                raise XapiUnreachable(task.call, error) from error
            except Broken as error:
                task.judge(error.cause)
                raise TransferFailed(task.what, problem=f"the connection broke ({error})") from error
            if exchange.status == 200:
                return exchange
            with exchange:
                if exchange.status == 401 and not is_renewed:
                    task.is_over()  # a call of the session, which then logs in again
                    is_renewed = True
                    if self._session.handle != session_ref:
                        continue
                self._refuse(task, exchange, session_ref)

    def _refuse(self, task: TransferTask, exchange: Exchange, session_ref: str) -> NoReturn:
        """Raise TransferFailed: the host refused, and has not begun. A task that has not failed by now stays pending
        for ever."""
        task.is_settled = True
        said = exchange.said(_LOOK)
        if exchange.status != 401 and task.is_over():
            task.check(status=exchange.status)
        text = _TAG.sub(" ", said.decode(errors="replace").replace(session_ref, MASK))
        problem = f"the host answered HTTP {exchange.status}: {' '.join(text.split())[:_EXCERPT] or 'without a text'}"
        raise TransferFailed(task.what, problem=problem, status=exchange.status)

    def _await_end(self, task: TransferTask, exchange: Exchange) -> None:
        """Wait until the host closes the connection, or the task is over. Raises Broken."""
        clock = self._timeouts.clock
        deadline = clock() + self._timeouts.finish
        while not exchange.is_readable(min(_LOOK, self._timeouts.finish)):
            if task.is_over():
                return
            if clock() > deadline:
                raise Broken(TimeoutError(f"the host has not finished after {self._timeouts.finish:.0f} s"))
        exchange.said(_LOOK)  # nothing, or an error page; the task knows more

    # ---- hosts

    @property
    def _base(self) -> Endpoint:
        base = self._endpoint or self._session.endpoint
        if base is None:  # `choose_transport` checks it before xenvol makes anything
            raise NoTransport("the pool", reasons={"http": NO_ENDPOINT})
        return base

    def _endpoints(self, disk: Disk) -> list[Endpoint]:
        """Return the hosts that have the SR plugged, the master first. One call. Raises NoTransport."""
        pbds = self._view.find("PBD", {"SR": disk.sr_ref, "currently_attached": True})
        hosts = self._view.all("host")
        plugged = [HostRef(pbd["host"]) for pbd in pbds.values() if pbd["host"] in hosts]
        if not plugged:
            raise NoTransport(
                f"VDI {disk.uuid}", reasons={"http": "its SR is plugged on no host; plug a PBD of it first"}
            )
        plugged.sort(key=lambda ref: (ref != self._view.master, not hosts[ref]["enabled"]))
        base = self._base
        found = [base] if self._endpoint is not None else []  # it is not known which host this is
        for ref in plugged:
            if self._endpoint is None and ref == self._view.master:
                found.append(base)
                continue
            with suppress(
                NotConnected
            ):  # a host without an address yet, or one that must not get the session
                found.append(base.at(hosts[ref]["address"]))
        return found

    def _follow(self, task: TransferTask, location: str) -> Endpoint:
        """Return the target of a redirect, if it is a host of the pool: no other machine gets the session."""
        address = urllib.parse.urlsplit(location).hostname or ""
        for host in self._view.all("host").values():
            if host["address"] and _same_address(host["address"], address):
                return self._base.at(host["address"])
        task.is_settled = True
        raise TransferFailed(
            task.what,
            problem=f"the host redirects to {address or 'nowhere'}, which is not a host of the pool",
        )


def sends_vhd(size: int) -> bool:
    """Return whether a host sends a disk of `size` bytes as a VHD: it must have whole blocks, of 2 MiB.

    Of any other disk it sends no end, and reads on with all of a processor when the client has gone
    (docs/background/recordings.md, finding 2 (xapi)). Its bytes as raw do end.
    """
    return size <= VHD_MAX and size % VHD_BLOCK == 0


def _same_address(one: str, other: str) -> bool:
    return one.strip("[]").lower() == other.strip("[]").lower()
