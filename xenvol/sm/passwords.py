"""A backend's passwords. Each is a xapi secret, whose uuid follows from the backend, and is stored nowhere else.

The database, and a config that is shown, have only that uuid. `PBD.create` copies the secret that a
``*password_secret`` key names, and the copy goes with the PBD (docs/background/recordings.md, CHAP secrets). The
original stays until the backend is removed.
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
    """Return the uuid of the secret for this key of the backend with this token."""
    return str(uuid.uuid5(_NAMESPACE, f"{token}/{key}"))


def referred(token: str, device_config: Mapping[str, str | Secret]) -> dict[str, str]:
    """Return the device_config with each password as ``<key>_secret=<uuid>``: the form that is stored and shown."""
    plain: dict[str, str] = {}
    for key, value in device_config.items():
        if isinstance(value, Secret):
            plain[f"{key}{_SUFFIX}"] = uuid_of(token, key)
        else:
            plain[key] = value
    return plain


def keys_in(params: Mapping[str, str]) -> list[str]:
    """Return the keys whose values are kept as secrets."""
    return [key.removesuffix(_SUFFIX) for key in params if key.endswith(f"password{_SUFFIX}")]


def keep(view: View, token: str, device_config: Mapping[str, str | Secret]) -> None:
    """Make the secrets, or set the value of existing ones. Idempotent; `forget` removes them."""
    for key, value in device_config.items():
        if not isinstance(value, Secret):
            continue
        view.hide(value)
        secret_uuid = uuid_of(token, key)
        there = find_secret(view, secret_uuid) or _introduce(view, secret_uuid, value)
        if there is not None:
            view.call("secret.set_value", there, value)


def tell_pbds(view: View, sr_ref: SRRef, device_config: Mapping[str, str | Secret]) -> None:
    """Set the new value in the copies that the SR's PBDs have. Their next plug logs in with it. Idempotent."""
    for _, pbd in find_pbds(view, sr_ref).values():
        for key, value in device_config.items():
            if not isinstance(value, Secret):
                continue
            copy_ref = find_secret(view, pbd["device_config"].get(f"{key}{_SUFFIX}", ""))
            if copy_ref is not None:
                view.call("secret.set_value", copy_ref, value)


def check_known(view: View, backend_id: int, params: Mapping[str, str]) -> None:
    """Raise BackendNotReady if this pool lacks one of the secrets: another pool was used to register the backend."""
    for _ in _secrets(view, backend_id, params):
        pass


def revealed(view: View, backend_id: int, params: Mapping[str, str]) -> dict[str, str | Secret]:
    """Return the device_config with its passwords, for a connection_info.

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
    """Remove the secrets of a backend, and only those that are its own. Idempotent."""
    for key in keys_in(params):
        if params[f"{key}{_SUFFIX}"] == uuid_of(token, key):
            secret_ref = find_secret(view, uuid_of(token, key))
            if secret_ref is not None:
                destroy_secret(view, secret_ref)


def _secrets(view: View, backend_id: int, params: Mapping[str, str]) -> Iterator[tuple[str, SecretRef]]:
    for key in keys_in(params):
        secret_ref = find_secret(view, params[f"{key}{_SUFFIX}"])
        if secret_ref is None:
            problem = f"its {key} is not known to this pool: `xenvol sm backend_password {backend_id} {key}` sets it"
            raise BackendNotReady(backend_id, problem=problem)
        yield key, secret_ref


def _introduce(view: View, secret_uuid: str, value: Secret) -> SecretRef | None:
    """Make the secret. Return it, so that the caller sets its value, if the call fails and the secret exists after all.

    Another process may have made it at this moment, and xapi has no error code for a uuid that is taken.
    """
    try:
        view.call("secret.introduce", secret_uuid, value, {})
    except (XapiError, XapiUnreachable):
        there = find_secret(view, secret_uuid)
        if there is None:
            raise
        return there
    return None
