"""A backend's passwords: each is a xapi secret of ours, whose uuid follows from the backend, and is nowhere else.

Neither the database nor a config that is shown has more than that uuid. `PBD.create` copies the secret that a
``*password_secret`` key names, and that copy goes with the PBD (facts/sm-truth.md, CHAP secrets); ours stays until
the backend is removed.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping

from xenvol.errors import XapiError, XapiUnreachable
from xenvol.pool.view import View
from xenvol.secret import Secret
from xenvol.session.refs import SecretRef, SRRef
from xenvol.sm.errors import BackendNotReady
from xenvol.storage.pbd import find_pbds
from xenvol.storage.secrets import destroy_secret, find_secret

_NAMESPACE = uuid.UUID("3f0a8f6e-2c55-5b0e-8f6a-60d3a0a1c7d4")
_SUFFIX = "_secret"


def uuid_of(token: str, key: str) -> str:
    """Of the secret for that key of the backend with that token."""
    return str(uuid.uuid5(_NAMESPACE, f"{token}/{key}"))


def referred(token: str, device_config: Mapping[str, str | Secret]) -> dict[str, str]:
    """The device_config with each password as ``<key>_secret=<uuid>``: what is stored and shown."""
    plain: dict[str, str] = {}
    for key, value in device_config.items():
        if isinstance(value, Secret):
            plain[f"{key}{_SUFFIX}"] = uuid_of(token, key)
        else:
            plain[key] = value
    return plain


def keys_in(params: Mapping[str, str]) -> list[str]:
    """Of which keys the values are kept as secrets."""
    return [key.removesuffix(_SUFFIX) for key in params if key.endswith(f"password{_SUFFIX}")]


def keep(view: View, token: str, device_config: Mapping[str, str | Secret]) -> None:
    """Make the secrets, or give those that are there the value. Idempotent; `forget` takes them back."""
    for key, value in device_config.items():
        if not isinstance(value, Secret):
            continue
        view.hide(value)
        secret_uuid = uuid_of(token, key)
        there = find_secret(view, secret_uuid) or _introduce(view, secret_uuid, value)
        if there is not None:
            view.call("secret.set_value", there, value)


def tell_pbds(view: View, sr_ref: SRRef, device_config: Mapping[str, str | Secret]) -> None:
    """Give the copies that an SR's PBDs have the new value: their next plug logs in with it. Idempotent."""
    for _, pbd in find_pbds(view, sr_ref).values():
        for key, value in device_config.items():
            if not isinstance(value, Secret):
                continue
            copy_ref = find_secret(view, pbd["device_config"].get(f"{key}{_SUFFIX}", ""))
            if copy_ref is not None:
                view.call("secret.set_value", copy_ref, value)


def check_known(view: View, backend_id: int, params: Mapping[str, str]) -> None:
    """Raise BackendNotReady where this pool has not all of the secrets: another one was used to register it."""
    for _ in _secrets(view, backend_id, params):
        pass


def revealed(view: View, backend_id: int, params: Mapping[str, str]) -> dict[str, str | Secret]:
    """The device_config with its passwords, for whoever must log in elsewhere: a connection_info.

    Raises BackendNotReady as `check_known` does.
    """
    found: dict[str, str | Secret] = dict(params)
    for key, secret_ref in _secrets(view, backend_id, params):
        secret = Secret(view.call("secret.get_value", secret_ref))
        view.hide(secret)
        del found[f"{key}{_SUFFIX}"]
        found[key] = secret
    return found


def forget(view: View, token: str, params: Mapping[str, str]) -> None:
    """Remove the secrets of a backend. Idempotent; spares those that are not ours."""
    for key in keys_in(params):
        if params[f"{key}{_SUFFIX}"] == uuid_of(token, key):
            secret_ref = find_secret(view, uuid_of(token, key))
            if secret_ref is not None:
                destroy_secret(view, secret_ref)


def _secrets(view: View, backend_id: int, params: Mapping[str, str]) -> Iterator[tuple[str, SecretRef]]:
    for key in keys_in(params):
        secret_ref = find_secret(view, params[f"{key}{_SUFFIX}"])
        if secret_ref is None:
            problem = f"its {key} is not known to this pool: `xenvol sm backend_password {backend_id} {key}` tells it"
            raise BackendNotReady(backend_id, problem=problem)
        yield key, secret_ref


def _introduce(view: View, secret_uuid: str, value: Secret) -> SecretRef | None:
    """Make it. One that is there after a refusal or a silence is returned, to be given the value: another process may
    have made it in this very moment, and xapi has no code of its own for a uuid that is taken."""
    try:
        view.call("secret.introduce", secret_uuid, value, {})
    except (XapiError, XapiUnreachable):
        there = find_secret(view, secret_uuid)
        if there is None:
            raise
        return there
    return None
