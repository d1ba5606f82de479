"""What can be wrong with an image, with where it comes from or goes to, and with the road it takes; by whose fault.

A message names the image, what is wrong with it and, where something can be done, what. No text shows a token that a
URL or a header holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from xenvol.errors import HypervisorError, RequestError, StorageError, XenVolError

# --- the image ----------------------------------------------------------------------------------------------------


class InvalidImage(RequestError):
    """The image is not what its first bytes say that it is; `offset` is where, in bytes, if that is known."""

    def __init__(
        self, image: str, *, format: str, problem: str, offset: int | None = None, remedy: str | None = None
    ) -> None:
        where = "" if offset is None else f" (at byte {offset})"
        advice = "" if remedy is None else f"; {remedy}"
        called = format.upper() if format in ("vhd", "vmdk", "iso") else format
        super().__init__(f"{image} is no good {called} image: {problem}{where}{advice}")
        self.image = image
        self.format = format
        self.problem = problem
        self.offset = offset


class TruncatedImage(InvalidImage):
    """It ends before its own tables say that it does."""


class EncryptedImage(InvalidImage):
    """Its bytes mean nothing without a key, and would look like a disk."""

    def __init__(self, image: str, *, format: str) -> None:
        super().__init__(
            image,
            format=format,
            problem="it is encrypted",
            remedy="decrypt it first, with `qemu-img convert` and its secret",
        )


class MissingParent(InvalidImage):
    """It holds only what differs from another image, which was not given; `parent` is how it names that one."""

    def __init__(self, image: str, *, format: str, parent: str) -> None:
        super().__init__(
            image,
            format=format,
            problem=f"it holds only what differs from {parent}",
            remedy="give the whole chain, leaf first (of VHDs), or flatten it first",
        )
        self.parent = parent


class UnsupportedImage(RequestError):
    """A good image, as far as it can be told, in a form that xenvol does not read."""

    def __init__(self, image: str, *, problem: str, remedy: str) -> None:
        super().__init__(f"{image} cannot be read: {problem}; {remedy}")
        self.image = image
        self.problem = problem


class ChecksumMismatch(RequestError):
    """What arrived is not what was promised; `expected` and `found` are hexadecimal digests."""

    def __init__(self, image: str, *, algorithm: str, expected: str, found: str) -> None:
        super().__init__(
            f"{image} has the {algorithm} {found}, and {expected} was promised: it was changed or cut on its way, or "
            "another image was meant; fetch it again"
        )
        self.image = image
        self.algorithm = algorithm
        self.expected = expected
        self.found = found


class ImageTooLarge(RequestError):
    """Sizes in bytes; `limit` is what the SR's driver makes at most, or what the given disk has."""

    def __init__(self, image: str, *, size: int, limit: int, what: str) -> None:
        super().__init__(f"{image} holds a disk of {size} bytes, and {what} has at most {limit}")
        self.image = image
        self.size = size
        self.limit = limit


# --- where it comes from, where it goes ---------------------------------------------------------------------------


class SourceError(RequestError):
    """The image cannot be had: no such file, an HTTP error, a stream that broke; `status` is HTTP's."""

    def __init__(self, image: str, *, problem: str, status: int | None = None) -> None:
        super().__init__(f"{image} cannot be had: {problem}")
        self.image = image
        self.problem = problem
        self.status = status


class TargetError(RequestError):
    """The image cannot be put there."""

    def __init__(self, target: str, *, problem: str) -> None:
        super().__init__(f"{target} cannot be written: {problem}")
        self.target = target
        self.problem = problem


class NoRoomToStage(RequestError):
    """Sizes in bytes; nothing was written."""

    def __init__(self, directory: str, *, needed: int, free: int, reason: str) -> None:
        super().__init__(
            f"{directory} has {free} bytes free, and {needed} are needed, since {reason}; name a larger directory "
            "(--staging-dir), or give the image as a file"
        )
        self.directory = directory
        self.needed = needed
        self.free = free


class MissingReader(RequestError):
    """A format that another package, or program, reads."""

    def __init__(self, image: str, *, format: str, package: str) -> None:
        super().__init__(f"{image} is a {format} image, which {package} reads: install it")
        self.image = image
        self.format = format
        self.package = package


class TransferCancelled(XenVolError):
    """Whoever waited for it does not want it any more; nothing of it remains."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was cancelled; nothing of it remains")
        self.what = what


class UnknownDisk(RequestError):
    """No SR, or no VDI, of this name, or several; `candidates` are the uuids of the several."""

    def __init__(self, kind: str, name: str, *, candidates: Iterable[str] = ()) -> None:
        self.kind = kind
        self.name = name
        self.candidates = list(candidates)
        found = f"{kind}s {', '.join(self.candidates)} have" if self.candidates else f"no {kind} has"
        super().__init__(f"{found} the reference, uuid or name {name!r}; give a uuid")


class DiskNotSuited(RequestError):
    """The disk, or the SR, is there, and is not one that this can be done with; nothing was made."""

    def __init__(self, what: str, *, problem: str, remedy: str) -> None:
        super().__init__(f"{what} {problem}: {remedy}")
        self.what = what
        self.problem = problem
        self.remedy = remedy


# --- the road -----------------------------------------------------------------------------------------------------


class NoTransport(HypervisorError):
    """Found out before anything was made; `reasons` say of each road why it cannot be taken."""

    def __init__(self, what: str, *, reasons: Mapping[str, str]) -> None:
        self.what = what
        self.reasons = dict(reasons)
        listed = "; ".join(f"{road}: {reason}" for road, reason in self.reasons.items())
        super().__init__(f"there is no way to the bytes of {what}: {listed}")


NoRoad = NoTransport
"""The name of earlier releases."""


class TransferFailed(HypervisorError):
    """A host broke off, or its storage did; `code` is xapi's, of the task, where there is one."""

    def __init__(
        self, what: str, *, problem: str, code: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(f"{what}: {problem}")
        self.what = what
        self.problem = problem
        self.code = code
        self.status = status


class NotAsWritten(StorageError):
    """What was read back is not what was written; `offset` is the first byte of the disk that differs, about."""

    def __init__(self, disk: str, *, offset: int) -> None:
        super().__init__(
            f"{disk} does not hold what was written, from byte {offset} on: the storage, or the way to it, loses or "
            "changes data; nothing was kept"
        )
        self.disk = disk
        self.offset = offset
