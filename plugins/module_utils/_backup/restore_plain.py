# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filling a directory from a plain ``tar -czf`` archive, which has neither index nor checksums. PRIVATE to the collection.

The whole stream is unpacked beside the place, with the same care about names as an indexed one; the data directory is then found
in it, wherever the archive keeps it.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._archive.index import DIRECTORY, FILE
from ansible_collections.fileforge.ops.plugins.module_utils._archive.reader import PlainEntry, read_plain
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_files import Owner, Tree, remove_tree, write_all
from ansible_collections.fileforge.ops.plugins.module_utils._backup.restore_settle import FOLDERS
from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, Refused
from ansible_collections.fileforge.ops.plugins.module_utils._files import fsync_directory, write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import Store
from ansible_collections.fileforge.ops.plugins.module_utils._postgres.cluster import CONTROL_FILE, read_control

_PARTS = frozenset(("base", *(name.partition("/")[0] for name in FOLDERS)))
_REFILLED = frozenset(
    ("pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans", "pg_wal")
)
"""Those whose content a restore does not need: they are made anew as empty directories where the archive has a link."""


def fill_plain(store: Store, key: str, target: str, done_mark: str, owner: Owner, on_bytes: t.Callable[[int], None]) -> None:
    """Make ``target`` the data directory in the archive. ``done_mark`` is a file that says it was done before.

    Nothing can tell half of a plain archive from all of it afterwards, so an interrupted try begins anew.
    """
    if os.path.exists(done_mark) and os.path.isdir(target):
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(done_mark)
    staging = f"{target}.tar"
    remove_tree(target)
    remove_tree(staging)
    info = store.head(key)
    try:
        root, links = _unpack(_counted(store.stream(key, etag=info.etag), on_bytes), staging, owner)
        with Tree(staging, owner) as tree:
            _place_links(tree, root, links)
    except IntegrityError as error:
        remove_tree(staging)
        raise Refused(
            "archive_damaged", f"{key}: {error.message}", hint="choose another backup, or an older version of the object", key=key
        ) from error
    except Refused:
        remove_tree(staging)
        raise
    os.rename(os.path.join(staging, root) if root else staging, target)
    os.chmod(target, 0o700)
    if root:
        remove_tree(staging)
    fsync_directory(os.path.dirname(target))
    write_whole(done_mark, b"", mode=0o600)


def _counted(chunks: t.Iterable[bytes], on_bytes: t.Callable[[int], None]) -> t.Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        on_bytes(len(chunk))


def _unpack(chunks: t.Iterable[bytes], staging: str, owner: Owner) -> tuple[str, dict[str, str]]:
    """Unpack everything but links; where the data directory is in it, and the links."""
    links: dict[str, str] = {}
    files: set[str] = set()
    with Tree(staging, owner) as tree:
        for entry in read_plain(chunks):
            if entry.type == DIRECTORY:
                if entry.path:
                    tree.directory(entry.path, (entry.mode & 0o777) | 0o700)
            elif entry.type == FILE:
                _write(tree, entry)
                files.add(entry.path)
            else:
                links[entry.path] = entry.target
    return find_root(files), links


def _write(tree: Tree, entry: PlainEntry) -> None:
    handle = tree.create(entry.path)
    try:
        offset = 0
        for chunk in entry.chunks():
            write_all(handle, chunk, offset)
            offset += len(chunk)
        tree.finish(handle, entry.mode | 0o600, entry.mtime)
    finally:
        os.close(handle)


def find_root(files: t.Collection[str]) -> str:
    """The directory in the archive that holds PG_VERSION and the control file. Raises Refused (``not_a_backup``)."""
    roots = []
    for path in files:
        if path == CONTROL_FILE or path.endswith(f"/{CONTROL_FILE}"):
            root = path[: -len(CONTROL_FILE)].rstrip("/")
            if (f"{root}/PG_VERSION" if root else "PG_VERSION") in files:
                roots.append(root)
    if len(roots) != 1:
        what = "no PostgreSQL data directory" if not roots else f"several data directories ({', '.join(sorted(roots))})"
        raise Refused("not_a_backup", f"the archive holds {what}", hint="choose another backup")
    return roots[0]


def _place_links(tree: Tree, root: str, links: t.Mapping[str, str]) -> None:
    """Links beside PostgreSQL's own parts; one in them would lead what is read, written and cleaned up there somewhere else."""
    prefix = f"{root}/" if root else ""
    for path, target in links.items():
        if not path.startswith(prefix):
            continue
        name = path[len(prefix) :]
        if name.startswith("pg_tblspc/"):
            raise Refused(
                "tablespace_missing",
                f"the archive only has a link for the tablespace {name[len('pg_tblspc/') :]} ({target}), not its files",
                hint="choose a backup made by postgres_base_backup, or restore by hand",
            )
        top = name.split("/")[0]
        if top in _PARTS and top not in _REFILLED:
            raise Refused(
                "link_inside",
                f"the archive only has a link for {name} ({target}), not what it leads to, and a server would write there",
                hint="choose a backup made by postgres_base_backup, or restore by hand",
            )
        if top not in _REFILLED:
            tree.link(path, target)


def complete_plain(root: str, label: str, owner: Owner) -> list[str]:
    """What a plain archive may lack or have too much of; returns what was done. Raises Refused (``backup_label_missing``)."""
    done = []
    if not os.path.exists(os.path.join(root, "backup_label")):
        if label:
            write_whole(os.path.join(root, "backup_label"), label.encode(), mode=0o600, owner=owner)
            done.append("backup_label was made from the backup history file in the WAL archive")
        elif not read_control(root).clean:
            raise Refused(
                "backup_label_missing",
                "the archive was made of a running server without pg_backup_start: it has no backup_label and is not consistent",
                hint="choose another backup",
            )
    removed = 0
    for folder in (os.path.join(root, "pg_wal"), os.path.join(root, "pg_wal", "archive_status")):
        for entry in os.scandir(folder) if os.path.isdir(folder) and not os.path.islink(folder) else ():
            if entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)
                removed += 1
    if removed:
        done.append(f"{removed} files in pg_wal were removed: WAL comes from the archive")
    return done
