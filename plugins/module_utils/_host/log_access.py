# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether logrotate may rotate, and the application may still write afterwards: users, directories, modes. PRIVATE."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._host import globs
from ansible_collections.fileforge.ops.plugins.module_utils._host.logrotate_stanza import StanzaOptions


def _user(option: str, name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError as error:
        raise InvalidOption(option, name, "there is no such user on this host") from error


def _group(option: str, name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise InvalidOption(option, name, "there is no such group on this host") from error


def directories_of(paths: t.Sequence[str]) -> list[str]:
    """Existing directories that hold, or would hold, the files."""
    found: set[str] = set()
    for path in paths:
        found.update(directory for directory in globs.expand(os.path.dirname(path)) if os.path.isdir(directory))
    return sorted(found)


def preflight(options: StanzaOptions) -> list[str]:
    """Look at users, directories and files; raises InvalidOption or Refused; returns what a person should know."""
    notes: list[str] = []
    for option in ("create_owner", "su_user", "writer"):
        if getattr(options, option) is not None:
            _user(option, getattr(options, option))
    for option in ("create_group", "su_group"):
        if getattr(options, option) is not None:
            _group(option, getattr(options, option))
    directories = directories_of(options.paths)
    if not directories:
        notes.append(f"no directory of {', '.join(options.paths)} exists yet, so nothing is rotated until one does")
    for directory in directories:
        _check_directory(directory, options)
    if options.olddir is not None:
        _check_old_directory(options.olddir, directories)
    _check_su_can_create(options)
    _check_writers(options)
    return notes + _warnings(options)


def _warnings(options: StanzaOptions) -> list[str]:
    """What is allowed but loses lines or rotations."""
    notes: list[str] = []
    if options.copytruncate:
        notes.append("copytruncate loses what is written between the copy and the truncation; prefer postrotate or signal")
    elif options.compress and not options.delaycompress:
        notes.append("compress without delaycompress loses what a program writes to the old file until it has reopened its log")
    often = options.size or options.maxsize or options.frequency == "hourly"
    if options.dateext and often and not re.search("%[Hs]", options.dateformat or ("%H" if options.frequency == "hourly" else "")):
        notes.append("dateext without %H or %s in dateformat allows one rotation a day; further ones that day are left out")
    if not (options.postrotate or options.signal or options.copytruncate):
        notes.append("nothing tells the program to reopen its log (postrotate or signal); right only when it does so by itself")
    return notes


def _check_directory(directory: str, options: StanzaOptions) -> None:
    """logrotate's own rule for root, also where no file matches yet; and whether the user of su can write there."""
    found = os.stat(directory)
    others = bool(found.st_mode & stat.S_IWOTH)
    group = bool(found.st_gid != 0 and found.st_mode & stat.S_IWGRP)
    if options.su_user is None:
        if os.geteuid() == 0 and (others or group):
            owner = _owner_name(found.st_uid)
            raise Refused(
                "insecure_directory",
                f"{directory}: {'everybody' if others else 'its group'} can write there, so logrotate refuses to rotate as root",
                hint=f"set su_user and su_group (for example {owner} and {_group_name(found.st_gid)}), or chmod go-w {directory}",
                directory=directory,
            )
        return
    user = _user("su_user", options.su_user)
    if not _may_write(found, user, [_group("su_group", options.su_group or "")]):
        raise Refused(
            "su_cannot_write",
            f"{directory}: su_user={options.su_user} cannot write there, so nothing could be rotated",
            hint=f"give the directory's owner ({_owner_name(found.st_uid)}) as su_user, or change the directory",
            directory=directory,
        )


def _may_write(found: os.stat_result, user: pwd.struct_passwd, groups: t.Sequence[int]) -> bool:
    """Whether the mode lets a user write."""
    if user.pw_uid == 0:
        return True
    if found.st_uid == user.pw_uid:
        return bool(found.st_mode & stat.S_IWUSR)
    if found.st_gid in groups:
        return bool(found.st_mode & stat.S_IWGRP)
    return bool(found.st_mode & stat.S_IWOTH)


def _owner_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _check_old_directory(olddir: str, directories: t.Sequence[str]) -> None:
    if not os.path.isdir(olddir):
        raise Refused("no_olddir", f"olddir={olddir}: there is no such directory", hint="create it first, on the logs' file system")
    for directory in directories:
        if os.stat(directory).st_dev != os.stat(olddir).st_dev:
            raise Refused("olddir_other_file_system", f"olddir={olddir} is not on the file system of {directory}")


def _check_su_can_create(options: StanzaOptions) -> None:
    """A user other than root cannot give files away."""
    if options.su_user is None or options.create_owner is None or options.copytruncate or not options.create:
        return
    user = _user("su_user", options.su_user)
    if user.pw_uid and _user("create_owner", options.create_owner).pw_uid != user.pw_uid:
        raise Refused(
            "su_cannot_create",
            f"su_user={options.su_user} cannot create files owned by create_owner={options.create_owner}: only root can",
            hint="make both the same user, or leave create_owner out",
        )


def _check_writers(options: StanzaOptions) -> None:
    """Who writes the log now must be able to write the file that logrotate creates."""
    if options.copytruncate or not options.create:
        return
    files = [path for pattern in options.paths for path in globs.expand(pattern) if os.path.isfile(path)]
    owners = {os.stat(path).st_uid: path for path in files}
    writers: t.Dict[str, str] = {}
    if options.writer is not None:
        writers[options.writer] = "the writer"
    else:
        for uid, path in sorted(owners.items()):
            if uid and _known(uid):
                writers[_owner_name(uid)] = f"the owner of {path}"
    sample = os.stat(files[0]) if files else None
    for name, why in writers.items():
        user = pwd.getpwnam(name)
        if user.pw_uid and not _could_write(options, user, sample):
            raise Refused(
                "writer_locked_out",
                f"{name} ({why}) could not write the file that is created after a rotation"
                f" (create {options.create_mode or ''} {options.create_owner or ''} {options.create_group or ''})".rstrip(),
                hint=f"set create_owner: {name}, or a group of {name} with a mode such as '0660'",
            )


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _could_write(options: StanzaOptions, user: pwd.struct_passwd, sample: os.stat_result | None) -> bool:
    """With owner, group and mode of the new file: those given, else those of the file that is rotated."""
    if sample is None and (options.create_owner is None or options.create_mode is None):
        return True
    mode = int(options.create_mode, 8) if options.create_mode is not None else stat.S_IMODE(sample.st_mode if sample else 0)
    uid = _user("create_owner", options.create_owner).pw_uid if options.create_owner else (sample.st_uid if sample else 0)
    known = sample.st_gid if sample else -1
    gid = _group("create_group", options.create_group) if options.create_group else known
    if uid == user.pw_uid:
        return bool(mode & stat.S_IWUSR)
    if gid in os.getgrouplist(user.pw_name, user.pw_gid):
        return bool(mode & stat.S_IWGRP)
    return bool(mode & stat.S_IWOTH)
