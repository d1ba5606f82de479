"""What can be wrong with an image, its source, its target or its transport; sorted by blame.

A message names the image, the problem and, if there is one, the remedy. No text shows a token from a URL or a
header.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from xenvol.errors import HypervisorError, RequestError, StorageError, XenVolError

# --- the image ----------------------------------------------------------------------------------------------------


class InvalidImage(RequestError):
    """The image breaks the rules of its format. `offset` is the place in bytes, if known."""

    def __init__(
        self, image: str, *, format: str, problem: str, offset: int | None = None, remedy: str | None = None
    ) -> None:
        where = "" if offset is None else f" (at byte {offset})"
        advice = "" if remedy is None else f"; {remedy}"
        called = format.upper() if format in ("vhd", "vmdk", "iso") else format
        super().__init__(f"{image} is not a valid {called} image: {problem}{where}{advice}")
        self.image = image
        self.format = format
        self.problem = problem
        self.offset = offset


class TruncatedImage(InvalidImage):
    """The image ends before the end that its own tables give."""


class EncryptedImage(InvalidImage):
    """The image is encrypted. Without the key its bytes would become a useless disk."""

    def __init__(self, image: str, *, format: str) -> None:
        super().__init__(
            image,
            format=format,
            problem="it is encrypted",
            remedy="decrypt it first, with `qemu-img convert` and its secret",
        )


class MissingParent(InvalidImage):
    """The image holds only differences from a parent that was not given. `parent` is the image's name for it."""

    def __init__(self, image: str, *, format: str, parent: str) -> None:
        super().__init__(
            image,
            format=format,
            problem=f"it holds only the differences from {parent}",
            remedy="give the whole chain, leaf first (of VHDs), or flatten it first",
        )
        self.parent = parent


class UnsupportedImage(RequestError):
    """The image is in a form that xenvol does not read."""

    def __init__(self, image: str, *, problem: str, remedy: str) -> None:
        super().__init__(f"xenvol cannot read {image}: {problem}; {remedy}")
        self.image = image
        self.problem = problem


class ChecksumMismatch(RequestError):
    """The image differs from its checksum. `expected` and `found` are hexadecimal digests."""

    def __init__(self, image: str, *, algorithm: str, expected: str, found: str) -> None:
        super().__init__(
            f"{image} has the {algorithm} {found}, and not {expected}: it was changed or cut on its way, or the "
            "checksum belongs to another image; fetch it again"
        )
        self.image = image
        self.algorithm = algorithm
        self.expected = expected
        self.found = found


class ImageTooLarge(RequestError):
    """Sizes in bytes. `limit` is the largest disk that the SR's driver makes, or the size of the given disk."""

    def __init__(self, image: str, *, size: int, limit: int, what: str) -> None:
        super().__init__(f"{image} holds a disk of {size} bytes, and {what} has at most {limit}")
        self.image = image
        self.size = size
        self.limit = limit


# --- where it comes from, where it goes ---------------------------------------------------------------------------


class SourceError(RequestError):
    """xenvol cannot read the image: no such file, an HTTP error, a broken stream. `status` is HTTP's."""

    def __init__(self, image: str, *, problem: str, status: int | None = None) -> None:
        super().__init__(f"cannot read {image}: {problem}")
        self.image = image
        self.problem = problem
        self.status = status


class SourceUnavailable(SourceError):
    """The image's server did not answer, was busy, or broke off. The same call may succeed a little later.

    `retry_after` are the seconds that the server asks for, if it did.
    """

    is_transient = True

    def __init__(
        self, image: str, *, problem: str, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(image, problem=problem, status=status)
        self.retry_after = retry_after


class TargetError(RequestError):
    """xenvol cannot write the image there."""

    def __init__(self, target: str, *, problem: str) -> None:
        super().__init__(f"cannot write {target}: {problem}")
        self.target = target
        self.problem = problem


class NoRoomToStage(RequestError):
    """The staging directory has too little free space. Sizes in bytes; nothing was written to the disk."""

    def __init__(self, directory: str, *, needed: int, free: int, reason: str) -> None:
        super().__init__(
            f"{directory} has {free} bytes free, and {needed} are needed, since {reason}; name a larger directory "
            "(--staging-dir), or give the image as a file"
        )
        self.directory = directory
        self.needed = needed
        self.free = free


class MissingReader(RequestError):
    """The format needs a package, or a program, that is not installed."""

    def __init__(self, image: str, *, format: str, package: str) -> None:
        super().__init__(f"{image} is a {format} image, which {package} reads: install it")
        self.image = image
        self.format = format
        self.package = package


class TransferCancelled(XenVolError):
    """The caller cancelled the transfer; nothing of it remains."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was cancelled; nothing of it remains")
        self.what = what


class UnknownDisk(RequestError):
    """No SR, or no VDI, has this name, or several have it. `candidates` are the uuids of the several."""

    def __init__(self, kind: str, name: str, *, candidates: Iterable[str] = ()) -> None:
        self.kind = kind
        self.name = name
        self.candidates = list(candidates)
        found = f"{kind}s {', '.join(self.candidates)} have" if self.candidates else f"no {kind} has"
        super().__init__(f"{found} the reference, uuid or name {name!r}; give a uuid")


class DiskNotSuited(RequestError):
    """The operation is not possible with this disk, or this SR. xenvol made nothing."""

    def __init__(self, what: str, *, problem: str, remedy: str) -> None:
        super().__init__(f"{what} {problem}: {remedy}")
        self.what = what
        self.problem = problem
        self.remedy = remedy


# --- the transport ------------------------------------------------------------------------------------------------


class NoTransport(HypervisorError):
    """No transport reaches the disk. Raised before xenvol makes anything; `reasons` has the reason for each
    transport."""

    def __init__(self, what: str, *, reasons: Mapping[str, str]) -> None:
        self.what = what
        self.reasons = dict(reasons)
        listed = "; ".join(f"{road}: {reason}" for road, reason in self.reasons.items())
        super().__init__(f"no transport reaches {what}: {listed}")


NoRoad = NoTransport
"""The name in earlier releases."""


class TransferFailed(HypervisorError):
    """A host, or its storage, ended the transfer. `code` is the error code of xapi's task, if there is one."""

    def __init__(
        self, what: str, *, problem: str, code: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(f"{what}: {problem}")
        self.what = what
        self.problem = problem
        self.code = code
        self.status = status


class NotAsWritten(StorageError):
    """The disk does not hold what was written. `offset` is about where the difference begins, in bytes."""

    def __init__(self, disk: str, *, offset: int) -> None:
        super().__init__(
            f"{disk} does not hold what was written, from byte {offset} on: the storage, or the connection to it, "
            "loses or changes data; nothing was kept"
        )
        self.disk = disk
        self.offset = offset
