# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems as the kernel tells them, looked at so that a dead one cannot stop the others. PRIVATE to the collection.

A file server that is gone blocks whoever asks for its file system, in the kernel. So each question is asked by a process of its
own, all at the same time; one that does not answer in time is left behind and its file system is unknown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import select
import signal
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils._wait import Deadline

MOUNTINFO = "/proc/self/mountinfo"
FILESYSTEMS = "/proc/filesystems"
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "glusterfs", "lustre", "beegfs", "zfs", "afs", "gfs2", "ocfs2")
IMAGES = ("squashfs", "iso9660", "udf", "erofs", "cramfs", "romfs")
"""Always full, by design."""


@dataclasses.dataclass(frozen=True)
class Mount:
    """One line of mountinfo."""

    mount_point: str
    device_number: str
    root: str
    type: str
    device: str
    options: tuple[str, ...]


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts, in mounting order; of those on the same place only the last, which hides the others."""
    found: dict[str, Mount] = {}
    for line in text.splitlines():
        before, _dash, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if len(left) < 6 or len(right) < 2:
            continue
        point = _unescape(left[4])
        found.pop(point, None)
        found[point] = Mount(point, left[2], _unescape(left[3]), right[0], _unescape(right[1]), tuple(left[5].split(",")))
    return list(found.values())


def read_mounts() -> list[Mount]:
    """The mounts that this process sees."""
    with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as stream:
        return parse_mountinfo(stream.read())


def real_mounts(mounts: t.Sequence[Mount], filesystems: str) -> list[Mount]:
    """Those that hold data: on a device or a network; each file system once, images and pseudo file systems not.

    Only types that the kernel lists without ``nodev`` are on a device. Some that it mounts itself (nsfs) are not listed at all.
    """
    on_device = {line.strip() for line in filesystems.splitlines() if not line.startswith("nodev")}
    best: dict[str, Mount] = {}
    for mount in mounts:
        kind = mount.type.partition(".")[0]
        root = mount.type == "overlay" and mount.mount_point == "/"
        held = kind in on_device or mount.type in NETWORK or kind == "fuse" or root
        if not held or mount.type in IMAGES or mount.type in ("fuse.portal", "fuse.gvfsd-fuse", "fuse.lxcfs", "fusectl"):
            continue
        if not held_by_directory(mount):
            continue
        key = f"{mount.device_number} {mount.device}"
        known = best.get(key)
        if known is None or (len(mount.root), len(mount.mount_point)) < (len(known.root), len(known.mount_point)):
            best[key] = mount
    return sorted(best.values(), key=lambda mount: mount.mount_point)


def held_by_directory(mount: Mount) -> bool:
    """Single files are mounted into containers (resolv.conf); they are not where a disk fills."""
    return not mount.mount_point.startswith(("/proc/", "/sys/", "/dev/")) and not mount.mount_point.startswith("/etc/")


def mount_of(path: str, mounts: t.Sequence[Mount]) -> Mount | None:
    """The mount that a resolved path is on."""
    under = [mount for mount in mounts if path == mount.mount_point or path.startswith(mount.mount_point.rstrip("/") + "/")]
    return max(under, key=lambda mount: len(mount.mount_point)) if under else None


@dataclasses.dataclass(frozen=True)
class Usage:
    """What statvfs said, or why it said nothing."""

    path: str
    real_path: str = ""
    total_bytes: int = 0
    used_bytes: int = 0
    available_bytes: int = 0
    total_inodes: int = 0
    used_inodes: int = 0
    available_inodes: int = 0
    read_only: bool = False
    problem: str = ""

    @property
    def used_fraction(self) -> float | None:
        """As df counts: of what users other than root could ever use."""
        usable = self.used_bytes + self.available_bytes
        return self.used_bytes / usable if usable > 0 else None

    @property
    def used_inode_fraction(self) -> float | None:
        """None for a file system that has no fixed number of inodes."""
        usable = self.used_inodes + self.available_inodes
        return self.used_inodes / usable if self.total_inodes > 0 and usable > 0 else None


def measure(path: str) -> Usage:
    """Ask for one path; may block for ever."""
    try:
        real = os.path.realpath(path)
        found = os.statvfs(real)
    except OSError as error:
        return Usage(path, problem=error.strerror or str(error))
    unit = found.f_frsize or found.f_bsize
    return Usage(
        path,
        real,
        found.f_blocks * unit,
        (found.f_blocks - found.f_bfree) * unit,
        found.f_bavail * unit,
        found.f_files,
        found.f_files - found.f_ffree,
        found.f_favail,
        bool(found.f_flag & os.ST_RDONLY),
    )


def measure_all(paths: t.Sequence[str], timeout: float, ask: t.Callable[[str], Usage] = measure) -> list[Usage]:
    """Ask for all at the same time; who does not answer within ``timeout`` seconds has the problem that it did not."""
    asked = {path: _ask_in_child(path, ask) for path in dict.fromkeys(paths)}
    answers: dict[int, bytes] = {reader: b"" for _pid, reader in asked.values()}
    deadline = Deadline(timeout)
    open_readers = set(answers)
    while open_readers:
        ready, _writable, _bad = select.select(list(open_readers), [], [], deadline.left)
        for reader in ready:
            part = os.read(reader, 65536)
            answers[reader] += part
            if not part:
                open_readers.discard(reader)
        if not ready and not deadline.left:
            break
    return [
        _answer_of(path, pid, reader, answers[reader], reader in open_readers, timeout) for path, (pid, reader) in asked.items()
    ]


def _ask_in_child(path: str, ask: t.Callable[[str], Usage]) -> tuple[int, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        os.close(reader)
        answer = json.dumps(dataclasses.asdict(ask(path))).encode()
        while answer:
            answer = answer[os.write(writer, answer) :]
    finally:
        os._exit(0)  # nothing of the caller's may run twice


def _answer_of(path: str, pid: int, reader: int, answer: bytes, silent: bool, timeout: float) -> Usage:
    os.close(reader)
    if silent:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # one that hangs in the kernel is not waited for
        os.waitpid(pid, os.WNOHANG if silent else 0)
    if silent:
        return Usage(path, problem=f"no answer within {timeout:g} s: its device or file server hangs")
    try:
        return Usage(**json.loads(answer))
    except ValueError:
        return Usage(path, problem="could not be asked")
