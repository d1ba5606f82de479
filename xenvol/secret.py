"""A secret is a value that never prints: what is not printed need not be masked everywhere.

`Secret` shows ``***`` to repr, str, format, logging and debuggers, and refuses pickle and JSON; `reveal` is
the one way to its text, so that one search finds every place where a password leaves. Which keys of a foreign
mapping hold secrets, and what in a foreign text looks like one, is told by the tables below.
"""

import hmac
import re
from typing import Any, Final, NoReturn, final

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
