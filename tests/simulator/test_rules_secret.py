"""Secrets are values with a uuid; test_rules_pbd.py tests how drivers and PBDs use them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from storage_pool import NULL, StoragePool, refusal, storage_pool

UUID = "11111111-0000-4000-8000-000000000001"


@pytest.fixture
def pool() -> Iterator[StoragePool]:
    with storage_pool() as pool:
        yield pool


class TestSecret:
    def test_it_has_a_value_that_can_change(self, pool: StoragePool) -> None:
        secret = pool.x.secret.create({"value": "v", "other_config": {"a": "b"}})
        assert pool.x.secret.get_value(secret) == "v"
        assert pool.x.secret.get_other_config(secret) == {"a": "b"}
        pool.x.secret.set_value(secret, "w")
        assert pool.x.secret.get_value(secret) == "w"

    def test_other_config_may_be_left_out_and_the_value_may_not(self, pool: StoragePool) -> None:
        assert pool.x.secret.get_other_config(pool.x.secret.create({"value": "v"})) == {}
        missing = 'Server_helpers.Dispatcher_FieldNotFound("value")'
        assert refusal(pool.x.secret.create, {}) == ["INTERNAL_ERROR", missing]

    def test_destroyed_is_gone(self, pool: StoragePool) -> None:
        secret = pool.x.secret.create({"value": "v", "other_config": {}})
        uuid = pool.x.secret.get_uuid(secret)
        pool.x.secret.destroy(secret)
        assert refusal(pool.x.secret.get_by_uuid, uuid) == ["UUID_INVALID", "secret", uuid]
        assert refusal(pool.x.secret.destroy, secret) == ["HANDLE_INVALID", "secret", secret]
        assert refusal(pool.x.secret.destroy, NULL) == ["HANDLE_INVALID", "secret", NULL]

    def test_an_introduced_uuid_is_taken_once(self, pool: StoragePool) -> None:
        secret = pool.x.secret.introduce(UUID, "v", {})
        assert pool.x.secret.get_by_uuid(UUID) == secret
        assert refusal(pool.x.secret.introduce, UUID, "v", {})[0] == "INTERNAL_ERROR"
