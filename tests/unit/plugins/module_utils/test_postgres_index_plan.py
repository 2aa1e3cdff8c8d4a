# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is rebuilt, dropped, left and refused, and in which order."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.bloat import Bloat
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_inventory import (
    NAME_BYTES,
    NEW,
    OLD,
    Index,
    Inventory,
    definition_digest,
    own_name,
    rest_of,
    shown,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_plan import (
    Choice,
    Chooser,
    RebuildOptions,
    Target,
    Wanted,
    plan_of,
    require_version,
)
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.index_rebuild import _removable
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=63).filter(
    lambda name: len(name.encode()) <= NAME_BYTES
)
A = "USING btree (a)"
B = "USING btree (b)"


def index(name: str, oid: int = 0, **changes: t.Any) -> Index:
    values = {"schema": "public", "table_oid": 1, "table": "t", "definition": A, "bytes": 1000, **changes}
    return Index(oid=oid or sum(map(ord, name)) + 1000, name=name, **values)


def bloat(of: Index, ratio: float, size: int = 100 * 2**20) -> Bloat:
    expected = round(size * (1 - ratio))
    return Bloat(of.oid, of.schema, of.name, "index", of.table, of.method, size, expected, "estimate")


def choose(
    *indexes: Index,
    bloats: t.Sequence[Bloat] = (),
    targets: t.Sequence[Target] = (),
    busy: dict[int, int] | None = None,
    version: int = 150000,
    **options: t.Any,
) -> Choice:
    inventory = Inventory(list(indexes), busy or {})
    given_options = RebuildOptions(**options)
    return Chooser(inventory, given_options, targets, {each.oid: each for each in bloats}, version).choose()


def done(choice: Choice) -> list[tuple[str, str, str]]:
    return [(task.kind, task.name, task.reason) for task in choice.tasks]


def left(choice: Choice) -> dict[str, str]:
    return {each.name: each.reason for each in choice.left}


def target(wanted: Wanted, definition: str = B, **changes: t.Any) -> Target:
    values = {"table_oid": 1, "table_kind": "r", "table_bytes": 5000, "tablespace": 0, "is_ours": True, "name_taken": False}
    return Target(wanted, definition=definition, unsafe=False, **{**values, **changes})


def wanted_definition(name: str = "i") -> Wanted:
    return Wanted(name, table="t", definition="(b)")


def test_a_sound_index_is_left_in_peace() -> None:
    choice = choose(index("i"))
    assert (choice.tasks, choice.left) == ([], [])


def test_an_invalid_index_is_rebuilt() -> None:
    assert done(choose(index("i", is_valid=False))) == [("rebuild", "i", "invalid")]


@pytest.mark.parametrize(
    ("ratio", "size", "rebuilt"),
    [(0.3, 100 * 2**20, True), (0.29, 100 * 2**20, False), (0.9, 11 * 2**20, False), (0.95, 11 * 2**20, True)],
)
def test_bloat_counts_in_percent_and_in_bytes(ratio: float, size: int, rebuilt: bool) -> None:
    i = index("i")
    assert bool(choose(i, bloats=[bloat(i, ratio, size)]).tasks) == rebuilt


def test_unknown_bloat_is_no_bloat() -> None:
    i = index("i")
    assert not choose(i, bloats=[dataclasses.replace(bloat(i, 0.9), expected_bytes=None, source="none")]).tasks


@pytest.mark.parametrize("suffix", ["_ccnew", "_ccold", "_ccnew1", "_ccold12"])
def test_what_the_server_leaves_is_dropped(suffix: str) -> None:
    assert done(choose(index("i"), index(f"i{suffix}", is_valid=False))) == [("drop", f"i{suffix}", "leftover")]


def test_a_leftover_of_an_invalid_index_is_dropped_and_the_index_rebuilt() -> None:
    choice = choose(index("i", is_valid=False), index("i_ccnew", is_valid=False))
    assert done(choice) == [("drop", "i_ccnew", "leftover"), ("rebuild", "i", "invalid")]


def test_a_leftover_with_a_cut_name() -> None:
    name = "n" * 63
    assert done(choose(index(name), index("n" * 57 + "_ccnew", is_valid=False))) == [("drop", "n" * 57 + "_ccnew", "leftover")]


@pytest.mark.parametrize(
    ("original", "leftover"),
    [
        (index("i"), index("i_ccnew")),  # valid: somebody's own index, or a duplicate made valid by hand
        (index("i", definition=B), index("i_ccnew", is_valid=False)),
        (index("i", table_oid=2), index("i_ccnew", is_valid=False)),
        (index("other"), index("i_ccnew", is_valid=False)),
        (index("index"), index("i_ccnew", is_valid=False)),
        (index("i"), index("i_ccnew", is_valid=False, is_unique=True)),
    ],
)
def test_what_only_looks_like_a_leftover_is_not_dropped(original: Index, leftover: Index) -> None:
    choice = choose(original, leftover)
    assert not [task for task in choice.tasks if task.kind == "drop"]
    if not leftover.is_valid:
        assert left(choice)["i_ccnew"] in ("unknown_leftover", "duplicate"), "never reindex what is merely invalid"


def test_an_invalid_duplicate_is_reported() -> None:
    assert left(choose(index("i"), index("j", is_valid=False))) == {"j": "duplicate"}
    forced = choose(index("i"), index("j", is_valid=False), indexes=(Wanted("j", force=True),))
    assert done(forced) == [("rebuild", "j", "force")]


def test_what_somebody_builds_is_left_to_him() -> None:
    choice = choose(
        index("i", is_valid=False), index("k", definition=B), index("k_ccnew", is_valid=False, definition=B), busy={1: 77}
    )
    assert left(choice) == {"i": "in_progress", "k_ccnew": "in_progress"} and not choice.tasks
    assert "77" in choice.left[0].detail


def test_old_index_of_our_replacement() -> None:
    new = index("i", definition=B)
    old = index(own_name("i", OLD, definition_digest(A, False)))
    assert done(choose(new, old)) == [("drop", old.name, "leftover")]
    assert left(choose(old)) == {old.name: "only_index"}
    assert left(choose(dataclasses.replace(new, is_valid=False), old))[old.name] == "only_index"
    assert left(choose(dataclasses.replace(new, table_oid=2), old)) == {old.name: "only_index"}
    stranger = index(f"i_ffold_{'0' * 8}")
    assert not choose(new, stranger).tasks and not choose(new, stranger).left


def test_new_index_of_our_replacement() -> None:
    old, new = index("i"), index(own_name("i", NEW, definition_digest(B, False)), definition=B)
    w = wanted_definition()
    assert done(choose(old, new, indexes=(w,), targets=[target(w)])) == [("replace", "i", "definition")], "it is adopted"
    broken = dataclasses.replace(new, is_valid=False)
    assert done(choose(old, broken, indexes=(w,), targets=[target(w)])) == [
        ("drop", new.name, "leftover"),
        ("replace", "i", "definition"),
    ]
    assert done(choose(old, new)) == [("drop", new.name, "leftover")], "nobody wants it any more"
    assert left(choose(new)) == {new.name: "only_index"}


def test_a_replacement_that_nobody_needs_any_more_is_dropped() -> None:
    made, new = index("i", definition=B), index(own_name("i", NEW, definition_digest(B, False)), definition=B)
    w = wanted_definition()
    assert done(choose(made, new, indexes=(w,), targets=[target(w)])) == [("drop", new.name, "leftover")]
    invalid = choose(dataclasses.replace(made, is_valid=False), new, indexes=(w,), targets=[target(w)])
    assert done(invalid) == [("rebuild", "i", "invalid")], "it is what answers queries until then"
    assert _removable(Inventory([made, new]), new, target(w))
    assert not _removable(Inventory([index("i"), new]), new, target(w)), "it is to take the place of the old one"
    assert not _removable(Inventory([new]), new, target(w))


@given(NAMES, NAMES, st.sampled_from([NEW, OLD]))
def test_own_names_prove_themselves(name: str, definition: str, kind: str) -> None:
    i = index(name, oid=1, definition="x" + definition)
    leftover = index(own_name(name, kind, i.digest), oid=2, definition=i.definition)
    assert len(leftover.name.encode()) <= NAME_BYTES
    found = Inventory([i, leftover]).leftover(leftover)
    assert found is not None and (found.of, found.kind) == (name, kind)
    assert Inventory([i, dataclasses.replace(leftover, definition=B)]).leftover(leftover) is not None
    other = dataclasses.replace(leftover, definition="y")
    assert Inventory([i, other]).leftover(other) is None


@given(NAMES)
def test_the_servers_leftovers_are_found_whatever_the_name(name: str) -> None:
    """As the server makes them: the name cut so that the suffix fits."""
    cut = name.encode()[: NAME_BYTES - 6].decode(errors="ignore") + "_ccnew"
    i, leftover = index(name, oid=1), index(cut, oid=2, is_valid=False)
    if cut != name:
        assert [each.of for each in Inventory([i, leftover]).leftovers()] == [name]


@given(st.lists(st.tuples(NAMES, st.booleans(), st.sampled_from([A, B]), st.sampled_from([1, 2])), unique_by=lambda row: row[0]))
def test_no_table_loses_its_last_index_of_a_definition(rows: list[tuple[str, bool, str, int]]) -> None:
    indexes = [index(name, n + 1, is_valid=ok, definition=what, table_oid=table) for n, (name, ok, what, table) in enumerate(rows)]
    choice = choose(*indexes)
    dropped = {task.index.oid for task in choice.tasks if task.kind == "drop" and task.index}
    for each in indexes:
        if each.oid in dropped:
            assert not each.is_valid or any(
                other.is_valid and other.table_oid == each.table_oid and other.oid not in dropped for other in indexes
            )


def test_a_definition() -> None:
    w = wanted_definition()
    assert done(choose(indexes=(w,), targets=[target(w)])) == [("create", "i", "missing")]
    assert done(choose(index("i"), indexes=(w,), targets=[target(w)])) == [("replace", "i", "definition")]
    assert not choose(index("i", definition=B), indexes=(w,), targets=[target(w)]).tasks
    assert done(choose(index("i", definition=B, is_valid=False), indexes=(w,), targets=[target(w)])) == [
        ("rebuild", "i", "invalid")
    ]


@pytest.mark.parametrize(
    ("there", "changes", "reason"),
    [
        (index("i", constraints=("i (p)",)), {}, "constraint"),
        (index("i", is_replica_identity=True), {}, "replica_identity"),
        (index("i", is_clustered=True), {}, "clustered"),
        (index("i", is_partition=True), {}, "partition"),
        (index("i", table_oid=2), {}, "other_table"),
        (index("i", kind="I"), {"table_kind": "p"}, "partitioned_table"),
        (None, {"table_kind": "p"}, "partitioned_table"),
        (None, {"name_taken": True}, "name_taken"),
        (None, {"is_ours": False}, "not_owner"),
    ],
)
def test_a_definition_that_cannot_be_given(there: Index | None, changes: dict[str, t.Any], reason: str) -> None:
    w = wanted_definition()
    with pytest.raises(Refused) as caught:
        choose(*([there] if there else []), indexes=(w,), targets=[target(w, **changes)])
    assert caught.value.state["reason"] == reason


def test_exclusion_constraints_are_left_or_refused() -> None:
    i = index("i", is_exclusion=True, method="gist")
    assert left(choose(dataclasses.replace(i, is_valid=False))) == {"i": "exclusion_constraint"}
    with pytest.raises(Refused, match="exclusion"):
        choose(i, indexes=(Wanted("i", force=True),))


def test_others_tables() -> None:
    assert left(choose(index("i", is_ours=False, is_valid=False))) == {"i": "not_owner"}
    assert left(choose(index("i", is_ours=False), index("i_ccnew", is_ours=False, is_valid=False))) == {"i_ccnew": "not_owner"}


def test_an_index_that_is_not_there() -> None:
    with pytest.raises(Refused) as caught:
        choose(indexes=(Wanted("i"),))
    assert caught.value.state["reason"] == "no_such_index"


def test_scope() -> None:
    everywhere = [index("a", schema="x", is_valid=False), index("b", schema="y", is_valid=False, definition=B)]
    toast = index("t", schema="pg_toast", is_valid=False, table_oid=9)
    assert [name for _kind, name, _reason in done(choose(*everywhere, toast))] == ["a", "b"]
    assert [name for _kind, name, _reason in done(choose(*everywhere, schemas=("y",)))] == ["b"]
    assert [name for _kind, name, _reason in done(choose(*everywhere, indexes=(Wanted("a", "x"),), only=True))] == ["a"]
    assert [name for _kind, name, _reason in done(choose(toast, indexes=(Wanted("t", "pg_toast"),)))] == ["t"]


def test_a_partitioned_index_stands_for_its_leaves() -> None:
    top = index("top", 1, kind="I", is_valid=False)
    middle = index("middle", 2, kind="I", parent_oid=1, table_oid=2)
    leaves = [index(f"leaf{n}", 10 + n, parent_oid=1 + n, table_oid=3 + n, is_partition=True) for n in range(2)]
    choice = choose(top, middle, *leaves, indexes=(Wanted("top", force=True),), only=True)
    assert done(choice) == [("rebuild", "leaf0", "force"), ("rebuild", "leaf1", "force")]
    assert left(choice) == {"top": "partition_missing"}


def test_broken_comes_first_then_small() -> None:
    indexes = [index("big", 1, bytes=9), index("small", 2, bytes=3), index("broken", 3, bytes=99, is_valid=False, definition=B)]
    choice = choose(*indexes, bloats=[bloat(indexes[0], 0.9), bloat(indexes[1], 0.9)])
    assert [task.name for task in choice.tasks] == ["broken", "small", "big"]


def test_builds_that_would_wait_for_one_another_go_alone() -> None:
    plain, partial, expression = (
        index("a"),
        index("b", is_partial=True, definition=B),
        index("c", has_expressions=True, definition="x"),
    )
    forced = tuple(Wanted(name, force=True) for name in "abc")
    alone = {task.name: task.alone for task in choose(plain, partial, expression, indexes=forced).tasks}
    assert alone == {"a": False, "b": True, "c": True}
    assert all(task.alone for task in choose(plain, partial, expression, indexes=forced, version=130010).tasks)


def test_the_digest_does_not_depend_on_sizes() -> None:
    first, second = index("a", 1, bytes=1, is_valid=False), index("b", 2, bytes=2, is_valid=False, definition=B)
    grown = dataclasses.replace(first, bytes=99)
    plans = [plan_of("t", choose(*indexes)) for indexes in ((first, second), (second, grown))]
    assert plans[0].digest == plans[1].digest and len(plans[0].steps) == 2


def test_only_a_new_definition_is_destructive() -> None:
    w = wanted_definition()
    assert not plan_of("t", choose(index("i", is_valid=False))).destructive
    plan = plan_of("t", choose(index("i"), indexes=(w,), targets=[target(w)]))
    assert plan.destructive and A in plan.steps[0].detail and B in plan.steps[0].detail


@pytest.mark.parametrize(
    ("version", "reason"), [(110022, "version"), (140000, "server_defect"), (140003, "server_defect"), (140004, ""), (120000, "")]
)
def test_versions(version: int, reason: str) -> None:
    if not reason:
        require_version(version)
        return
    with pytest.raises(Refused) as caught:
        require_version(version)
    assert caught.value.state["reason"] == reason


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"jobs": 0}, "jobs"),
        ({"bloat_percent": 0}, "bloat_percent"),
        ({"bloat_min_bytes": -1}, "bloat_min_bytes"),
        ({"window": 0}, "window"),
        ({"lock_timeout": 0}, "lock_timeout"),
        ({"attempts": 0}, "attempts"),
        ({"only": True}, "only"),
        ({"schemas": ("pg_catalog",)}, "schemas"),
        ({"indexes": (Wanted("i"), Wanted("i"))}, "indexes"),
        ({"indexes": (Wanted(""),)}, "indexes"),
        ({"indexes": (Wanted("é" * 32),)}, "indexes"),
        ({"indexes": (Wanted("i", "pg_catalog"),)}, "indexes"),
        ({"indexes": (Wanted("i", definition="(a)"),)}, "indexes"),
        ({"indexes": (Wanted("i", table="t", definition=" "),)}, "indexes"),
        ({"indexes": (Wanted("i", table="t"),)}, "indexes"),
        ({"indexes": (Wanted("i", unique=True),)}, "indexes"),
    ],
)
def test_bad_options(options: dict[str, t.Any], option: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        RebuildOptions(**options).check()
    assert caught.value.state["option"] == option and caught.value.hint


def test_names_for_people() -> None:
    assert shown("public", "idx") == "public.idx"
    assert shown("public", 'a"b') == 'public."a""b"'
    assert shown("s", "a\n\x1b[0m") == 's."a??[0m"'


def test_rest_of() -> None:
    assert rest_of('CREATE INDEX "x USING y" ON s.t USING btree (a)', 'CREATE INDEX "x USING y" ON s.t ') == A
