"""Text that never prints: a secret that is not printed need not be masked everywhere.

`Secret` shows ``***`` to repr, str, format, logging and debuggers, and refuses pickle and JSON. Only `reveal` returns
its text, so one search finds every place where a password leaves. The tables below tell which keys of a foreign mapping
hold secrets, and what looks like a secret in a foreign text.
"""

import contextlib
import hmac
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn, final
from urllib.parse import quote

SECRET_KEY_ENDINGS: Final = (
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "keyring",
    "token",
    "secretkey",
    "privatekey",
    "accesskey",
    "apikey",
    "chapkey",
    "encryptionkey",
    "credentials",
)
"""A key that ends in one of these holds a secret, in any case, with or without separators or a plural s."""

MASK: Final = "***"
LONG_ENOUGH: Final = 4
"""Characters. Masking a shorter secret would mask parts of many words."""

_IN_TEXT = re.compile(
    # a key with such an ending; then =, : or XML-RPC's tags between a name and its value; then the value
    r"""((?:password|passwd|passphrase|secret|keyring)["']?"""
    r"""(?:\s*[=:]\s*|</name>\s*<value>(?:\s*<string>)?)["']?)"""
    r"""([^\s"'<>,;&}]+)""",
    re.IGNORECASE,
)
_TARGET_NAME = re.compile(r"(?:iqn|eui|naa)\.[^\s=<>@,;&/]+", re.IGNORECASE)
"""The name of an iSCSI target. Such a name has no "=", and "secret:" in it is no key."""
_IN_URL = re.compile(r"(://[^/\s:@]*:)([^/\s@]+)(?=@)")


@final
class Secret:
    """A text that never prints. Immutable, hashable, compared in constant time. A copy is the object itself."""

    __slots__ = ("_text",)
    _text: str

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a Secret is made of a str, not of {type(text).__name__}")
        object.__setattr__(self, "_text", text)

    def reveal(self) -> str:
        """Return the text of the secret. Only the line that sends it may call this."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (secret._text.encode(errors="surrogatepass") for secret in (self, other))
        return hmac.compare_digest(mine, theirs)

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Secret is not pickled: call reveal() where its text must leave the process")


def is_secret_key(key: str) -> bool:
    """Return whether the value of this key is a secret: auth_password, chappassword_secret, keyring…"""
    letters = re.sub(r"[^a-z0-9]", "", key.lower())
    return letters.endswith(SECRET_KEY_ENDINGS) or letters.removesuffix("s").endswith(SECRET_KEY_ENDINGS)


def has_secret(text: str) -> bool:
    """Return whether a text has a secret within: mount options with password=…, a URL with user:password@…"""
    if _TARGET_NAME.fullmatch(text):
        return False
    return _IN_TEXT.search(text) is not None or _IN_URL.search(text) is not None


def masked(text: str) -> str:
    """Return a foreign text, such as the parameter of an error, with all masked that looks like a secret."""
    return _IN_URL.sub(rf"\1{MASK}", _IN_TEXT.sub(rf"\1{MASK}", text))


def revealed(value: Any) -> Any:
    """Return a value with its secrets in the clear. Only the line that sends it may call this."""
    match value:
        case Secret():
            return value.reveal()
        case dict():
            return {key: revealed(item) for key, item in value.items()}
        case list() | tuple():
            return [revealed(item) for item in value]
        case _:
            return value


def secrets_in(value: object) -> Iterator[Secret]:
    """Yield every Secret in a value that `freeze` made, at any depth."""
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, Mapping):
        yield from secrets_in(tuple(value.values()))
    elif isinstance(value, tuple | frozenset):
        for item in value:
            yield from secrets_in(item)


def without(text: str, secrets: Collection[Secret]) -> str:
    """Return the text with these secrets masked, also as XML, JSON, a URL or a repr spells them."""
    parts = {part for secret in secrets for part in _parts(secret.reveal())}
    spelled = {form for part in parts for form in _spellings(part)}
    for form in sorted(spelled, key=len, reverse=True):  # a longer form may contain a shorter one
        text = text.replace(form, MASK)
    return text


def _parts(text: str) -> set[str]:
    """Return the text, and each secret within it: a password among mount options, or in a URL."""
    return {text, *(found[2] for pattern in (_IN_TEXT, _IN_URL) for found in pattern.finditer(text))}


def _spellings(text: str) -> set[str]:
    if len(text) < LONG_ENOUGH:
        return set()
    xml = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    quoted = (xml.replace('"', "&quot;"), json.dumps(text)[1:-1], repr(text)[1:-1])
    return {text, xml, *quoted, quote(text, safe=""), quote(text)}


def scrub(error: BaseException, secrets: Collection[Secret]) -> None:
    """Mask these secrets in an error, its attributes and notes, and in every error in its chain; in place.

    The code of a refusal stays, even if a password reads like it: callers decide by the code.
    """
    for each in _chain(error):
        each.args = _scrubbed(each.args, secrets)
        facts = [*vars(each), *(name for name in _FACTS if hasattr(each, name))]
        for name in facts:
            value = getattr(each, name)
            clean = value if name == "code" and _is_code(value) else _scrubbed(value, secrets)
            if name == "details" and isinstance(value, list) and value and _is_code(value[0]):
                clean[0] = value[0]
            if clean != value:
                with contextlib.suppress(AttributeError, TypeError):  # a read-only attribute
                    setattr(each, name, clean)


@contextlib.contextmanager
def scrubbing(secrets: Iterable[Secret]) -> Iterator[None]:
    """Mask these secrets in every error that leaves the block."""
    try:
        yield
    except BaseException as error:
        scrub(error, frozenset(secrets))
        raise


_CODE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
"""A code of xapi: the attribute ``code`` of xenvol's errors, and the first of the client's ``details``."""
_FACTS = ("strerror", "filename", "filename2", "object")
"""Attributes in which Python's own errors keep text beside their arguments."""


def _is_code(value: object) -> bool:
    return isinstance(value, str) and _CODE.fullmatch(value) is not None


def cut_frames(error: BaseException, *, since: BaseException | None = None) -> None:
    """Drop the traceback of an error and of every error in its chain: the locals of their frames have what was sent.

    Leaves `since`, the error that was being handled before, as it is.
    """
    for each in _chain(error, since):
        each.__traceback__ = None


def _chain(error: BaseException, since: BaseException | None = None) -> Iterator[BaseException]:
    """Yield an error and every error that led to it, each once, up to `since`."""
    left: list[BaseException | None] = [error]
    seen: list[BaseException] = [] if since is None else [since]
    while left:
        each = left.pop()
        if each is None or any(each is known for known in seen):
            continue
        seen.append(each)
        yield each
        left += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions


def _scrubbed(value: Any, secrets: Collection[Secret]) -> Any:
    if isinstance(value, str):
        return without(value, secrets)
    if type(value) in (tuple, list, set, frozenset):
        return type(value)(_scrubbed(item, secrets) for item in value)
    if type(value) is dict:
        return {key: _scrubbed(item, secrets) for key, item in value.items()}
    return value
