"""What imports and exports share: the log-in, the task, and the choice of the host."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xenvol.simulator import sessions, tasks
from xenvol.simulator.failure import NULL, Failure, internal_error
from xenvol.simulator.images.body import Broken
from xenvol.simulator.images.exchange import Exchange
from xenvol.simulator.images.refusals import Missing, NoSuchTask, Unauthorised
from xenvol.simulator.rulebook import Call
from xenvol.simulator.rules import datapath, sr_hosts
from xenvol.simulator.rules.nested import invoke
from xenvol.simulator.waits import Listener, ignore_wait
from xenvol.simulator.xapi import Xapi

log = logging.getLogger(__name__)

IO_ERROR = Failure("VDI_IO_ERROR", "Device I/O errors")
"""The error for any failure while bytes are copied (trace sm/30#23)."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One image request at one host."""

    exchange: Exchange
    xapi: Xapi
    host: str
    url_of: Callable[[str], str]
    """Returns the URL of the request at another host, for a redirect."""
    gone: threading.Event
    """Set when the host dies: then the host does nothing more, and leaves its work as it is."""
    refusal: Failure | None = None
    """An ordered refusal; it applies once the host has found that it is the right one."""
    on_wait: Listener = ignore_wait

    @contextlib.contextmanager
    def logged_in(self) -> Iterator[Call]:
        """Log in for the time of the request, with a session in the query or a cookie, or with name and password.

        Raises `Unauthorised`; a task that waits for an image then goes on waiting (trace sm/30#183).
        """
        xapi = self.xapi
        with xapi.lock:
            own = NULL
            session = self.exchange.parameters.get("session_id", "")
            if "session_id" not in self.exchange.parameters:
                session = own = self._log_in()
            elif not xapi.db.exists("session", session):
                raise Unauthorised
        try:
            yield Call(xapi, self.exchange.path.strip("/"), session, _fresh_ref(), self.host, self.on_wait)
        finally:
            with xapi.lock:
                sessions.destroy(xapi, own)

    def _log_in(self) -> str:
        if self.exchange.credentials is None:
            raise Unauthorised
        user, password = self.exchange.credentials
        call = Call(self.xapi, "session.login_with_password", NULL, _fresh_ref(), self.host)
        try:
            return sessions.login_with_password(call, user, password, "1.0", "")  # type: ignore[no-any-return]  # a rule returns Any
        except Failure as failure:
            raise Unauthorised from failure

    def reference(self, cls: str, name: str) -> str:
        """Return the reference for a reference or a uuid; `Missing` if there is none."""
        db = self.xapi.db
        if db.exists(cls, name):
            return name
        if (ref := db.by_uuid(cls, name)) is None:
            raise Missing(cls, name)
        return ref

    def is_at_the_right_host(self, sr: str) -> bool:
        """Return True if the SR is plugged here.

        If not, redirect the client to a host where it is; NO_HOSTS_AVAILABLE.
        """
        db = self.xapi.db
        plugged = sr_hosts.plugged_pbds(db, sr) if db.exists("SR", sr) else []
        hosts = [db.row("PBD", pbd)["host"] for pbd in plugged]
        if self.host in hosts:
            return True
        other = next((h for h in hosts if sr_hosts.is_live(db, h) and db.row("host", h)["enabled"]), None)
        if other is None:
            raise Failure("NO_HOSTS_AVAILABLE")
        location = f"{self.url_of(other)}{self.exchange.request.path}"
        self.exchange.end("HTTP/1.1 302 Found", (f"Location: {location}",))
        return False

    @contextlib.contextmanager
    def under_task(self, call: Call, label: str) -> Iterator[Call]:
        """Yield the call under the caller's task, or under a new one that is deleted at the end; `NoSuchTask`.

        An exception of the body fails the task; the body itself must complete it.
        """
        given = self.exchange.parameters.get("task_id")
        with call.xapi.lock:
            if given is not None and not call.db.exists("task", given):
                raise NoSuchTask(given)
            task = given if given is not None else tasks.create(call, label)
        try:
            yield dataclasses.replace(call, task=task)
        except Failure as failure:
            self.fail_task(failure, task)
            raise
        except OSError:  # the client or its host is gone
            self.fail_task(IO_ERROR, task)
            raise
        except Exception as error:  # a client must not wait for ever for a task whose thread has ended
            log.exception("%s failed", self.exchange)
            unforeseen = internal_error(repr(error))
            self.fail_task(unforeseen, task)
            raise unforeseen from error
        finally:
            if given is None:
                with call.xapi.lock:
                    if call.db.exists("task", task):
                        call.db.delete("task", task)

    def fail_task(self, failure: Failure, task: str | None = None) -> None:
        """Fail a task, by default the caller's; `NoSuchTask` if it does not exist."""
        task = task or self.exchange.parameters.get("task_id")
        with self.xapi.lock:
            if task is not None and not self.xapi.db.exists("task", task):
                raise NoSuchTask(task)
            if task is not None and not self.gone.is_set():
                tasks.finish(self.xapi, task, status="failure", error_info=failure.description)

    def complete_task(self, call: Call, result: str = "") -> None:
        with self.xapi.lock:
            if not self.gone.is_set():
                tasks.finish(self.xapi, call.task, status="success", result=result)

    @contextlib.contextmanager
    def plugged(self, call: Call, vdi: str, mode: str) -> Iterator[Path]:
        """Plug the disk into this host's control domain, and yield the file with its bytes (attach_helpers.ml).

        Raises the errors of VBD.create and VBD.plug, and VDI_IO_ERROR if copying fails.
        """
        with call.xapi.lock:
            vbd = invoke(
                call, "VBD.create", _slot(call.db.row("host", self.host)["control_domain"], vdi, mode)
            )
        try:
            with call.xapi.lock:
                invoke(call, "VBD.plug", vbd)
                path = datapath.content(call, self.host, vdi)
            try:
                yield path
            except (Broken, OSError) as error:
                raise IO_ERROR from error
        finally:
            with call.xapi.lock:
                if not self.gone.is_set():
                    for method in ("VBD.unplug", "VBD.destroy"):
                        with contextlib.suppress(Failure):
                            invoke(call, method, vbd)


def _slot(vm: str, vdi: str, mode: str) -> dict[str, object]:
    """Return the record that a client would send to VBD.create, with its optional fields."""
    return {
        "VM": vm,
        "VDI": vdi,
        "device": "",
        "userdevice": "autodetect",
        "bootable": False,
        "mode": mode,
        "type": "Disk",
        "unpluggable": True,
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
        "currently_attached": False,
    }


def _fresh_ref() -> str:
    return f"OpaqueRef:{uuid.uuid4()}"
