# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stanzas: read, rendered, and refused before anything is touched."""

from __future__ import annotations

import grp
import os
import pwd
import tempfile
import typing as t
from pathlib import Path

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, NotFound, OpsError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._host import log_access, logrotate, postrotate
from ansible_collections.fileforge.ops.plugins.module_utils._host.logrotate_stanza import StanzaOptions, render
from ansible_collections.fileforge.ops.plugins.module_utils._host.postrotate import ALLOWED, Signal
from ansible_collections.fileforge.ops.plugins.module_utils._host.stanzas import Configuration, conflicts
from hypothesis import given, settings
from hypothesis import strategies as st

ME = pwd.getpwuid(os.geteuid()).pw_name
MY_GROUP = grp.getgrgid(os.getegid()).gr_name


def options(**changes: t.Any) -> StanzaOptions:
    return StanzaOptions(**{"paths": ["/var/log/app/*.log"], "frequency": "daily", "postrotate_allowed": ALLOWED, **changes})


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "logrotate.d").mkdir()
    (tmp_path / "logrotate.conf").write_text(f"weekly\nrotate 4\ninclude {tmp_path}/logrotate.d\n")
    return tmp_path


# What a configuration says


def test_stanzas_of_all_included_files_are_read(etc: Path) -> None:
    (etc / "logrotate.d" / "b").write_text(
        '# comment {\n/var/log/b.log\n# between\n"/var/log/with blank.log" {\n  daily\n  postrotate\n    if x; then { y; } fi\n'
        "  endscript\n  rotate 3\n}\n\n/var/log/c.log { missingok }\ncompress\n/var/log/d.log {\n}\n"
    )
    (etc / "logrotate.d" / "a").write_text("'/var/log/a.log' {\n}\n")
    (etc / "logrotate.d" / "old.dpkg-old").write_text("/var/log/old.log {\n}\n")
    (etc / "logrotate.d" / "kept~").write_text("/var/log/kept.log {\n}\n")
    found = Configuration(str(etc / "logrotate.conf"))
    assert [stanza.patterns for stanza in found.stanzas] == [
        ("/var/log/a.log",),
        ("/var/log/b.log", "/var/log/with blank.log"),
        ("/var/log/c.log",),
        ("/var/log/d.log",),
    ]
    assert "rotate 3" in found.stanzas[1].directives
    assert found.includes(str(etc / "logrotate.d" / "new")) and found.includes(str(etc / "logrotate.d" / "a"))
    assert not found.includes(str(etc / "logrotate.d" / "new.disabled")) and not found.includes(str(etc / "new"))


def test_taboo_endings_can_be_changed(etc: Path) -> None:
    main = etc / "logrotate.conf"
    main.write_text("tabooext + .off\n" + main.read_text())
    assert Configuration(str(main)).taboo("x.off") and Configuration(str(main)).taboo("x~")
    main.write_text("tabooext .only\ntaboopat + skip*\n" + main.read_text().partition("\n")[2])
    assert not Configuration(str(main)).taboo("x~") and Configuration(str(main)).taboo("skipped")


def test_a_configuration_that_cannot_be_read_is_no_free_pass(etc: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.conf"):
        Configuration(str(etc / "none.conf"))
    (etc / "logrotate.conf").write_text(f"include {etc}/none\n")
    with pytest.raises(Refused) as refused:
        Configuration(str(etc / "logrotate.conf"))
    assert refused.value.state["reason"] == "cannot_read"
    (etc / "logrotate.conf").write_text(f"include {etc}/logrotate.conf\n")
    with pytest.raises(Refused) as refused:
        Configuration(str(etc / "logrotate.conf"))
    assert refused.value.state["reason"] == "include_depth"


@pytest.mark.parametrize(
    ("theirs", "certain"),
    [("{log}/*.log", True), ("{log}/app.log", True), ("{log}/../log/app.log", True), ("{log}/x*", False), ("{log}/*.txt", None)],
)
def test_conflicts(etc: Path, theirs: str, certain: bool | None) -> None:
    log = etc / "log"
    log.mkdir()
    (log / "app.log").touch()
    (etc / "logrotate.d" / "other").write_text(theirs.format(log=log) + " {\n}\n")
    (etc / "logrotate.d" / "own").write_text(f"{log}/*.log {{\n}}\n")
    found = conflicts([f"{log}/*.log"], Configuration(str(etc / "logrotate.conf")), str(etc / "logrotate.d" / "own"))
    assert [item.certain for item in found] == ([] if certain is None else [certain])
    assert all(item.stanza.file.endswith("other") for item in found)


def test_a_file_that_two_paths_lead_to_is_a_conflict(etc: Path) -> None:
    (etc / "log").mkdir()
    (etc / "log" / "app.log").touch()
    (etc / "link").symlink_to(etc / "log")
    (etc / "logrotate.d" / "other").write_text(f"{etc}/link/*.log {{\n}}\n")
    [found] = conflicts([f"{etc}/log/app.log"], Configuration(str(etc / "logrotate.conf")), str(etc / "own"))
    assert found.certain and found.files == (f"{etc}/log/app.log",)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{log}/*.log", "{log}/app.log"),
        ("{log}/none.log", "{log}/*.log"),
        ("{log}/none.log", "{log}//none.log"),
        ("{log}/a*.log", "{log}/*p.log"),
        ("{log}/*.log", "{log}/../link/app.log"),
    ],
)
def test_two_paths_for_the_same_file(etc: Path, one: str, other: str) -> None:
    log = etc / "log"
    log.mkdir()
    (log / "app.log").touch()
    (etc / "link").symlink_to(log)
    one, other = one.format(log=log), other.format(log=log)
    with pytest.raises(InvalidOption) as refused:
        logrotate.require_each_once(["/var/log/x", one, other])
    assert one in refused.value.message and other in refused.value.message
    (log / "app.log").rename(log / "other.txt")
    assert len(logrotate.require_each_once([f"{log}/a*.log", f"{log}/*p.log"])) == 1
    assert logrotate.require_each_once([f"{log}/*.log", f"{log}/*.txt", f"{log}/deep/*.log"]) == []


def test_paths_of_the_same_file_are_refused_before_logrotate_is_asked(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logrotate, "program", lambda: "logrotate")
    monkeypatch.setattr(logrotate, "judge", lambda _text: pytest.fail("logrotate was asked"))
    target = logrotate.Target(str(etc / "logrotate.d" / "app"), str(etc / "logrotate.conf"))
    with pytest.raises(InvalidOption, match="also matched by"):
        logrotate.install(options(paths=["/none/*.log", "/none/a.log"]), target, check_mode=False)
    assert not os.listdir(etc / "logrotate.d")


# What is written


def test_the_runbooks_stanza() -> None:
    text = render(options(create_mode="0640", create_owner=ME, create_group=MY_GROUP, signal=Signal("/run/app.pid")))
    lines = [line.strip() for line in text.splitlines()]
    assert lines[1] == '"/var/log/app/*.log" {'
    for line in ("daily", "rotate 30", "compress", "delaycompress", "missingok", "notifempty", f"create 0640 {ME} {MY_GROUP}"):
        assert line in lines
    assert lines[lines.index("postrotate") : lines.index("endscript") + 1] == [
        "postrotate",
        'kill -s HUP "$(cat /run/app.pid)"',
        "endscript",
    ]
    assert "||" not in text and "/dev/null" not in text and text.endswith("}\n")


def test_what_is_off_is_written_too() -> None:
    off = ("compress", "delaycompress", "missingok", "notifempty", "create", "sharedscripts")
    lines = [line.strip() for line in render(options(**dict.fromkeys(off, False))).splitlines()]
    for line in ("nocompress", "nodelaycompress", "nomissingok", "ifempty", "nocreate", "nosharedscripts", "nodateext"):
        assert line in lines


def test_every_other_directive() -> None:
    given: dict[str, t.Any] = {
        "maxage": 9,
        "minsize": "1k",
        "maxsize": "2G",
        "dateext": True,
        "dateformat": "-%Y%m%d%H",
        "rotate": -1,
    }
    text = render(options(**given, su_user=ME, su_group=MY_GROUP, olddir="/var/log/old dir", copytruncate=True))
    for line in ("maxage 9", "minsize 1k", "maxsize 2G", "dateext", "dateformat -%Y%m%d%H", "rotate -1", f"su {ME} {MY_GROUP}"):
        assert f"    {line}\n" in text
    assert 'olddir "/var/log/old dir"' in text and "copytruncate\n" in text and "nocreate" in text
    assert "    size 10M\n" in render(options(frequency=None, size="10M"))


def test_several_commands_end_at_the_first_failure() -> None:
    text = render(options(postrotate=["kill -0 1", "kill -s HUP 1"]))
    assert text.index("set -e") < text.index("kill -0 1") < text.index("kill -s HUP 1")


@pytest.mark.parametrize(
    "changes",
    [
        {"paths": []},
        {"paths": ["relative.log"]},
        {"paths": ["/var/log/a.log\n}"]},
        {"paths": ['/var/log/"a.log']},
        {"paths": ["/var/log/{a,b}.log"]},
        {"paths": ["/var/log/../a.log"]},
        {"paths": ["/var/log/app/*"]},
        {"paths": ["/var/log/app/app*"]},
        {"paths": ["/var/log/app/*"], "dateext": True},
        {"paths": ["/var/log/app/a.log", "/var/log/app/*.gz"]},
        {"frequency": None},
        {"size": "10M"},
        {"frequency": None, "size": "10 MB"},
        {"maxsize": "x"},
        {"rotate": -2},
        {"maxage": 0},
        {"create_mode": "640 root"},
        {"create_group": "root"},
        {"create_owner": "root"},
        {"su_user": "root"},
        {"dateformat": "-%Y"},
        {"dateext": True, "dateformat": "%D"},
    ],
)
def test_options_that_cannot_be_used(changes: dict[str, t.Any]) -> None:
    with pytest.raises(InvalidOption) as invalid:
        options(**changes).check()
    assert invalid.value.state["option"] in {**changes, "frequency": 0, "paths": 0}


def test_rotated_files_elsewhere_are_not_matched() -> None:
    options(paths=["/var/log/app/*"], olddir="/var/log/old").check()
    options(paths=["/var/log/app/*.log", "/srv/x/app.log"]).check()


NAMES = st.text("abcXYZ0189 .,-_#%@+=:;()&$*?", min_size=1, max_size=12).map(lambda name: f"/var/log/{name}.log")


@settings(max_examples=150, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=3))
def test_what_is_rendered_is_read_as_what_was_meant(names: list[str]) -> None:
    given_options = options(paths=names)
    try:
        given_options.check()
    except InvalidOption:  # ".." and patterns that match rotated files
        return
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write(render(given_options))
        file.flush()
        [stanza] = Configuration(file.name).stanzas
    assert stanza.patterns == tuple(names) and "rotate 30" in stanza.directives


# What makes the program reopen its log


@pytest.mark.parametrize(
    "command",
    [
        "systemctl reload app || true",
        "systemctl reload app > /dev/null 2>&1 || true",
        "systemctl reload app >/dev/null",
        "systemctl reload app 2>/dev/null",
        "systemctl reload app; true",
        "systemctl reload app & ",
        "true | systemctl reload app",
        "kill -HUP $(cat /run/app.pid)",
        "kill -HUP `cat /run/app.pid`",
        "kill -HUP 1\nendscript",
        "kill 'unclosed",
        "   ",
    ],
)
def test_what_hides_a_failure_is_refused(command: str) -> None:
    with pytest.raises(InvalidOption) as invalid:
        postrotate.script_of([command], None, ALLOWED)
    assert invalid.value.state["option"] == "postrotate"


def test_the_hint_is_the_command_without_what_hides() -> None:
    with pytest.raises(InvalidOption) as invalid:
        postrotate.words_of("systemctl reload fileforge > /dev/null 2>&1 || true")
    assert invalid.value.hint == "write only 'systemctl reload fileforge'"


def test_commands_must_exist_and_be_allowed() -> None:
    with pytest.raises(Refused) as refused:
        postrotate.script_of(["no-such-program-here reload"], None, ["no-such-program-here"])
    assert refused.value.state["reason"] == "postrotate_missing"
    with pytest.raises(Refused) as refused:
        postrotate.script_of(["true"], None, ALLOWED)
    assert refused.value.state["reason"] == "postrotate_not_allowed"
    [line] = postrotate.script_of(["true 'a b'"], None, ["true"])
    assert line.endswith("/true 'a b'") and line.startswith("/")


@pytest.mark.skipif(os.geteuid() != 0, reason="the rule is about root")
def test_a_program_that_others_can_change_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "reload"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o757)
    with pytest.raises(Refused) as refused:
        postrotate.script_of([str(program)], None, [str(program)])
    assert refused.value.state["reason"] == "postrotate_insecure"


@pytest.mark.parametrize(
    ("state", "command", "reason"),
    [
        ("LoadState=not-found\nCanReload=no", "reload app", "postrotate_unit"),
        ("LoadState=loaded\nCanReload=no", "reload app", "postrotate_unit"),
        ("LoadState=loaded\nCanReload=no", "reload-or-restart app", None),
        ("LoadState=loaded\nCanReload=yes", "reload app", None),
        ("LoadState=loaded\nCanReload=yes", "kill -s HUP app", None),
    ],
)
def test_units_must_be_reloadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, command: str, reason: str | None
) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\nprintf '%s\\n' '{state}'\n")
    systemctl.chmod(0o755)
    monkeypatch.setattr(postrotate, "SYSTEMD", str(tmp_path))
    try:
        postrotate.script_of([f"{systemctl} {command}"], None, ["systemctl"])
    except Refused as refused:
        assert refused.state["reason"] == reason
    else:
        assert reason is None


@pytest.mark.parametrize("signal", [Signal("run/app.pid"), Signal("/run/app.pid", "KILL"), Signal("/run/app.pid", "HUP 1; rm")])
def test_signals_that_cannot_be_used(signal: Signal) -> None:
    with pytest.raises(InvalidOption):
        signal.check()


# Who may rotate, who may write


def test_users_and_groups_must_exist(tmp_path: Path) -> None:
    paths = [f"{tmp_path}/*.log"]
    for changes in (
        {"create_mode": "0640", "create_owner": "no-such-user"},
        {"create_mode": "0640", "create_owner": ME, "create_group": "no-such-group"},
        {"su_user": "no-such-user", "su_group": MY_GROUP},
        {"su_user": ME, "su_group": "no-such-group"},
        {"writer": "no-such-user"},
    ):
        with pytest.raises(InvalidOption, match="no such"):
            log_access.preflight(options(paths=paths, **changes))


@pytest.mark.skipif(os.geteuid() != 0, reason="the rule is about root")
def test_directories_that_others_can_write_need_su(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    nobody = pwd.getpwnam("nobody")
    for mode, group, refused in ((0o755, 0, False), (0o775, 0, False), (0o775, nobody.pw_gid, True), (0o777, 0, True)):
        log.chmod(mode)
        os.chown(log, 0, group)
        try:
            log_access.preflight(options(paths=[f"{log}/*.log"]))
            assert not refused
        except Refused as error:
            assert refused and error.state["reason"] == "insecure_directory" and "su_user" in error.hint
    log_access.preflight(options(paths=[f"{log}/*.log"], su_user="root", su_group="root"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of another user")
def test_su_must_be_able_to_do_it(tmp_path: Path) -> None:
    nogroup = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
    given: dict[str, t.Any] = {"paths": [f"{tmp_path}/*.log"], "su_user": "nobody", "su_group": nogroup}
    tmp_path.chmod(0o755)
    with pytest.raises(Refused) as refused:
        log_access.preflight(options(**given))
    assert refused.value.state["reason"] == "su_cannot_write"
    os.chown(tmp_path, pwd.getpwnam("nobody").pw_uid, 0)
    log_access.preflight(options(**given))
    with pytest.raises(Refused) as refused:
        log_access.preflight(options(**given, create_mode="0640", create_owner="root"))
    assert refused.value.state["reason"] == "su_cannot_create"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of another user")
def test_the_application_must_be_able_to_write_the_new_file(tmp_path: Path) -> None:
    """The runbook's stanza creates the file for root, whoever the application runs as."""
    tmp_path.chmod(0o755)
    file = tmp_path / "app.log"
    file.touch()
    nobody = pwd.getpwnam("nobody")
    os.chown(file, nobody.pw_uid, nobody.pw_gid)
    given: dict[str, t.Any] = {"paths": [str(file)], "create_mode": "0640"}
    for owner, group, mode, writer, fine in (
        ("root", "root", "0640", None, False),
        ("root", "root", "0640", "nobody", False),
        ("nobody", "root", "0640", None, True),
        ("root", "nogroup", "0660", None, True),
        ("root", "nogroup", "0640", None, False),
        ("nobody", "root", "0440", None, False),
    ):
        try:
            log_access.preflight(
                options(**{**given, "create_owner": owner, "create_group": group, "create_mode": mode, "writer": writer})
            )
            assert fine
        except Refused as error:
            assert not fine and error.state["reason"] == "writer_locked_out" and "nobody" in error.message
    log_access.preflight(options(paths=[str(file)]))
    log_access.preflight(options(**given, create_owner="root", create_group="root", copytruncate=True))


def test_old_directories(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        log_access.preflight(options(paths=[f"{tmp_path}/*.log"], olddir=f"{tmp_path}/none"))
    assert refused.value.state["reason"] == "no_olddir"
    with pytest.raises(Refused) as refused:
        log_access.preflight(options(paths=[f"{tmp_path}/*.log"], olddir="/proc"))
    assert refused.value.state["reason"] == "olddir_other_file_system"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "reopen"),
        ({"copytruncate": True}, "copytruncate loses"),
        ({"delaycompress": False}, "without delaycompress"),
        ({"maxsize": "1M", "dateext": True}, "one rotation a day"),
        ({"paths": ["/no/such/place/*.log"]}, "exists yet"),
    ],
)
def test_what_is_accepted_but_said(tmp_path: Path, changes: dict[str, t.Any], word: str) -> None:
    notes = log_access.preflight(options(**{"paths": [f"{tmp_path}/*.log"], **changes}))
    assert any(word in note for note in notes)


# Where it goes


@pytest.mark.parametrize("dest", ["stanza", "/no/such/directory/x", "/etc"])
def test_places_that_cannot_be_used(dest: str) -> None:
    with pytest.raises(InvalidOption):
        logrotate.Target(dest).check()


def test_modes_that_logrotate_ignores(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="0664"):
        logrotate.Target(str(tmp_path / "x"), mode=0o664).check()


def test_a_place_that_nothing_includes_is_refused(etc: Path) -> None:
    configuration = Configuration(str(etc / "logrotate.conf"))
    logrotate.require_read(logrotate.Target(str(etc / "logrotate.d" / "app"), backup=True), configuration)
    for name in ("elsewhere", "logrotate.d/app.disabled"):
        with pytest.raises(Refused) as refused:
            logrotate.require_read(logrotate.Target(str(etc / name)), configuration)
        assert refused.value.state["reason"] == "not_read"


def test_without_logrotate_nothing_is_installed(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logrotate, "SEARCH", str(etc))
    with pytest.raises(OpsError) as refused:
        logrotate.install(options(), logrotate.Target(str(etc / "logrotate.d" / "app")), check_mode=False)
    assert refused.value.state["reason"] == "no_logrotate" and not (etc / "logrotate.d" / "app").exists()


def test_absent_removes_only_the_stanza(etc: Path) -> None:
    dest = etc / "logrotate.d" / "app"
    dest.write_text("x")
    target = logrotate.Target(str(dest), backup=True)
    assert logrotate.remove(target, check_mode=True).changed and dest.exists()
    outcome = logrotate.remove(target, check_mode=False)
    assert outcome.changed and not dest.exists() and Path(outcome.backup_file or "").read_text() == "x"
    assert Configuration(str(etc / "logrotate.conf")).taboo(outcome.backup_file or "")
    assert not logrotate.remove(target, check_mode=False).changed
