"""The commands on flavors use only the database, and report to people and to machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Shell

KEYS = {"id", "label", "description", "policy", "over_subscription", "reserved_percentage"}
HEADINGS = "ID\tLABEL\tDESCRIPTION\tPOLICY\tOVER-SUBSCRIPTION\tRESERVE"


class TestCreate:
    def test_it_says_what_was_made(self, shell: Shell) -> None:
        said = shell.sm("flavor_create", "gold", "backups are possible")
        assert said == "flavor gold is made: backups are possible\n"

    def test_json_is_the_flavor_with_what_holds_where_nothing_was_said(self, shell: Shell) -> None:
        flavor = shell.json("sm", "flavor_create", "gold", "backups are possible")
        assert set(flavor) == KEYS
        assert (flavor["policy"], flavor["over_subscription"], flavor["reserved_percentage"]) == (
            "first_fit",
            1.0,
            0,
        )

    def test_its_rules_are_kept(self, shell: Shell) -> None:
        rules = ["--policy", "most_free", "--over-subscription", "2.5", "--reserve", "5"]
        flavor = shell.json("sm", "flavor_create", "scratch", "no backups", *rules)
        assert (flavor["policy"], flavor["over_subscription"], flavor["reserved_percentage"]) == (
            "most_free",
            2.5,
            5,
        )
        assert shell.json("sm", "flavor_list", "scratch") == [flavor]

    @pytest.mark.parametrize(
        ("rule", "status", "kind"),
        [
            (["--policy", "by_the_moon"], 4, "UnknownPolicy"),
            (["--reserve", "100"], 2, "InvalidSetting"),
            (["--over-subscription", "0"], 2, "InvalidSetting"),
            (["--reserve", "much"], 2, "UsageError"),
        ],
    )
    def test_a_rule_that_cannot_be_is_refused(
        self, shell: Shell, rule: list[str], status: int, kind: str
    ) -> None:
        found, error = shell.error("sm", "flavor_create", "gold", "…", *rule)
        assert (found, error["type"]) == (status, kind)
        assert shell.json("sm", "flavor_list") == []

    @pytest.mark.parametrize("label", ["gold ", " gold", "gold\n", "", "gold\u00a0"])
    def test_a_label_that_looks_like_another_is_refused(self, shell: Shell, label: str) -> None:
        status, error = shell.error("sm", "flavor_create", label, "x")
        assert (status, error["type"]) == (2, "InvalidSetting")
        assert "no space at either end" in error["message"]
        assert shell.json("sm", "flavor_list") == []

    def test_a_label_that_is_taken_is_refused(self, shell: Shell) -> None:
        shell.sm("flavor_create", "gold", "backups are possible")
        status, error = shell.error("sm", "flavor_create", "gold", "other")
        assert (status, error["type"]) == (2, "FlavorExists")


class TestList:
    def test_the_table_has_a_row_for_each(self, shell: Shell) -> None:
        shell.sm("flavor_create", "gold", "backups are possible")
        shell.sm("flavor_create", "scratch", "no backups", "--reserve", "5", "--over-subscription", "1.5")
        assert shell.sm("flavor_list").splitlines() == [
            HEADINGS,
            "1\tgold\tbackups are possible\tfirst_fit\t1\t0 %",
            "2\tscratch\tno backups\tfirst_fit\t1.5\t5 %",
        ]
        assert shell.sm("flavor_list", "scratch").splitlines()[1:] == [
            "2\tscratch\tno backups\tfirst_fit\t1.5\t5 %"
        ]

    def test_without_any_there_are_headings_and_an_empty_list(self, shell: Shell) -> None:
        assert shell.sm("flavor_list") == f"{HEADINGS}\n"
        assert shell.json("sm", "flavor_list") == []

    def test_an_unknown_one_is_answered_with_those_there_are(self, shell: Shell) -> None:
        shell.sm("flavor_create", "gold", "backups are possible")
        status, error = shell.error("sm", "flavor_list", "silver")
        assert (status, error["type"]) == (2, "UnknownFlavor")
        assert "known: gold" in error["message"]


class TestDelete:
    def test_it_is_gone(self, shell: Shell) -> None:
        shell.sm("flavor_create", "gold", "backups are possible")
        assert shell.sm("flavor_delete", "gold") == "flavor gold is deleted\n"
        assert shell.json("sm", "flavor_list") == []
        shell.sm("flavor_create", "gold", "again")
        assert shell.json("sm", "flavor_delete", "gold") == {"deleted": True, "label": "gold"}

    def test_one_with_backends_stays_and_they_are_told(self, gold: Shell) -> None:
        status, error = gold.error("sm", "flavor_delete", "gold")
        assert (status, error["type"]) == (2, "FlavorInUse")
        assert error["message"] == "flavor 'gold' has backends: 1; remove them first"

    def test_one_that_is_not_there_is_an_error(self, shell: Shell) -> None:
        assert shell.error("sm", "flavor_delete", "gold")[1]["type"] == "UnknownFlavor"
