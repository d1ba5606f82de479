"""A secret is a value that never prints: what is not printed need not be masked everywhere.

`Secret` shows ``***`` to repr, str, format, logging and debuggers, and refuses pickle and JSON; `reveal` is
the one way to its text, so that one search finds every place where a password leaves. Which keys of a foreign
mapping hold secrets, and what in a foreign text looks like one, is told by the tables below.
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
"""A key that ends in one of these holds a secret: in any case, with or without separators or a plural s."""

MASK: Final = "***"
LONG_ENOUGH: Final = 4
"""Characters; to take shorter secrets out of a text would blot out half of it."""

_IN_TEXT = re.compile(
    # a key with such an ending, then = or : or what XML-RPC has between a name and its value, then the value
    r"""((?:password|passwd|passphrase|secret|keyring)["']?"""
    r"""(?:\s*[=:]\s*|</name>\s*<value>(?:\s*<string>)?)["']?)"""
    r"""([^\s"'<>,;&}]+)""",
    re.IGNORECASE,
)
_TARGET_NAME = re.compile(r"(?:iqn|eui|naa)\.[^\s=<>@,;&/]+", re.IGNORECASE)
"""The name of an iSCSI target. Names have no "=", so "secret:" in one is a word of the array's, not a key."""
_IN_URL = re.compile(r"(://[^/\s:@]*:)([^/\s@]+)(?=@)")


@final
class Secret:
    """Immutable, hashable, compared in constant time; copying it gives itself."""

    __slots__ = ("_text",)
    _text: str

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a Secret is made of a str, not of {type(text).__name__}")
        object.__setattr__(self, "_text", text)

    def reveal(self) -> str:
        """The secret itself; hand it to the wire and to nothing else."""
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
        raise TypeError("a Secret is not pickled: call reveal() where its text is meant to leave the process")


def is_secret_key(key: str) -> bool:
    """Whether the value of such a key is a secret: auth_password, chappassword_secret, keyring…"""
    letters = re.sub(r"[^a-z0-9]", "", key.lower())
    return letters.endswith(SECRET_KEY_ENDINGS) or letters.removesuffix("s").endswith(SECRET_KEY_ENDINGS)


def has_secret(text: str) -> bool:
    """Whether a text carries a secret within: mount options with password=…, a URL with user:password@…"""
    if _TARGET_NAME.fullmatch(text):
        return False
    return _IN_TEXT.search(text) is not None or _IN_URL.search(text) is not None


def masked(text: str) -> str:
    """The text without what looks like a secret; for what others wrote, such as an error's parameters."""
    return _IN_URL.sub(rf"\1{MASK}", _IN_TEXT.sub(rf"\1{MASK}", text))


def revealed(value: Any) -> Any:
    """A value for the wire with its secrets in the clear: for the line that sends it, and for nothing else."""
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
    """Every Secret in a value that `freeze` made, at any depth."""
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, Mapping):
        yield from secrets_in(tuple(value.values()))
    elif isinstance(value, tuple | frozenset):
        for item in value:
            yield from secrets_in(item)


def without(text: str, secrets: Collection[Secret]) -> str:
    """The text with these secrets masked, also as they are spelled in XML, JSON, a URL or a repr."""
    parts = {part for secret in secrets for part in _parts(secret.reveal())}
    spelled = {form for part in parts for form in _spellings(part)}
    for form in sorted(spelled, key=len, reverse=True):  # a longer one may have a shorter one within
        text = text.replace(form, MASK)
    return text


def _parts(text: str) -> set[str]:
    """The text, and what is secret within it: a password among mount options, or in a URL."""
    return {text, *(found[2] for pattern in (_IN_TEXT, _IN_URL) for found in pattern.finditer(text))}


def _spellings(text: str) -> set[str]:
    if len(text) < LONG_ENOUGH:
        return set()
    xml = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    quoted = (xml.replace('"', "&quot;"), json.dumps(text)[1:-1], repr(text)[1:-1])
    return {text, xml, *quoted, quote(text, safe=""), quote(text)}


def scrub(error: BaseException, secrets: Collection[Secret]) -> None:
    """Mask these secrets in an error, its facts and its notes, and in every error that it came from; in place.

    The code of a refusal stays: decisions are made on it, and it is no secret, also where a password reads like it.
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
                with contextlib.suppress(AttributeError, TypeError):  # a fact that cannot be changed
                    setattr(each, name, clean)


@contextlib.contextmanager
def scrubbing(secrets: Iterable[Secret]) -> Iterator[None]:
    """Let no error leave the block with one of these secrets in it, whoever raised it."""
    try:
        yield
    except BaseException as error:
        scrub(error, frozenset(secrets))
        raise


_CODE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
"""What a code of xapi looks like: the attribute ``code`` of our errors, the first of the client's ``details``."""
_FACTS = ("strerror", "filename", "filename2", "object")
"""Where errors of the interpreter keep text beside their arguments."""


def _is_code(value: object) -> bool:
    return isinstance(value, str) and _CODE.fullmatch(value) is not None


def cut_frames(error: BaseException, *, since: BaseException | None = None) -> None:
    """Let go of the frames that an error, and those that it came from, passed: their locals have what was sent.

    `since` is the error that was being handled before, which is left as it is.
    """
    for each in _chain(error, since):
        each.__traceback__ = None


def _chain(error: BaseException, since: BaseException | None = None) -> Iterator[BaseException]:
    """An error and, each once, all errors that led to it, after `since`."""
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
