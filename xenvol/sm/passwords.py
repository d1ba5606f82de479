"""A backend's passwords: each is a xapi secret of ours, whose uuid follows from the backend, and is nowhere else.

Neither the database nor a config that is shown has more than that uuid. `PBD.create` copies the secret that a
``*password_secret`` key names, and that copy goes with the PBD (facts/sm-truth.md, CHAP secrets); ours stays until
the backend is removed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import partial

from xenvol.errors import XapiError
from xenvol.refs import SecretRef
from xenvol.secret import Secret
from xenvol.sm.errors import BackendNotReady
from xenvol.undo import Undo
from xenvol.verbs import make
from xenvol.view import View, gone_is_fine, is_gone

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


def keep(view: View, undo: Undo, token: str, device_config: Mapping[str, str | Secret]) -> None:
    """Make the secrets, or give those that are there the value. Idempotent."""
    for key, value in device_config.items():
        if not isinstance(value, Secret):
            continue
        view.hide(value)
        secret_uuid = uuid_of(token, key)
        there = _find(view, secret_uuid)
        if there is not None:
            view.call("secret.set_value", there, value)
            continue
        make(
            view,
            undo,
            f"made a secret for {key}",
            ("secret.introduce", secret_uuid, value, {}),
            look=partial(_find, view, secret_uuid),
            inverse=_destroy,
        )


def revealed(view: View, backend_id: int, params: Mapping[str, str]) -> dict[str, str | Secret]:
    """The device_config with its passwords, for whoever must log in elsewhere: a connection_info.

    Raises BackendNotReady where this pool has not the secret: another one was used to register the backend.
    """
    found: dict[str, str | Secret] = {}
    for key, value in params.items():
        if not key.endswith(f"password{_SUFFIX}"):
            found[key] = value
            continue
        secret_ref = _find(view, value)
        if secret_ref is None:
            raise BackendNotReady(
                backend_id,
                problem=f"its {key.removesuffix(_SUFFIX)} is kept in another pool: "
                f"`xenvol sm backend_password {backend_id} {key.removesuffix(_SUFFIX)}` tells it to this one",
            )
        secret = Secret(view.call("secret.get_value", secret_ref))
        view.hide(secret)
        found[key.removesuffix(_SUFFIX)] = secret
    return found


def forget(view: View, token: str, params: Mapping[str, str]) -> None:
    """Remove the secrets of a backend. Idempotent; spares those that are not ours."""
    for key, value in params.items():
        if key.endswith(_SUFFIX) and value == uuid_of(token, key.removesuffix(_SUFFIX)):
            secret_ref = _find(view, value)
            if secret_ref is not None:
                _destroy(view, secret_ref)


def _find(view: View, secret_uuid: str) -> SecretRef | None:
    try:
        return SecretRef(view.call("secret.get_by_uuid", secret_uuid))
    except XapiError as error:
        if is_gone(error, "secret"):
            return None
        raise


def _destroy(view: View, secret_ref: SecretRef) -> None:
    with gone_is_fine("secret"):
        view.call("secret.destroy", secret_ref)
