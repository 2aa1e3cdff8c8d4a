# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate as certbot keeps it: numbered files in archive/NAME, links to the current ones in live/NAME. PRIVATE.

Private to the collection. A version that could not be deployed is set aside under another file name, where certbot's own timer does
not see it, and can be brought back without asking the authority for one more.
"""

from __future__ import annotations

import os
import re

from ansible_collections.fileforge.ops.plugins.module_utils._errors import IntegrityError, InvalidOption
from ansible_collections.fileforge.ops.plugins.module_utils._files import fsync_directory, write_whole
from ansible_collections.fileforge.ops.plugins.module_utils._tls.certificate import Certificate, from_pem, key_matches

KINDS = ("cert", "chain", "fullchain", "privkey")
ASIDE = ".undeployed"
_NAME = re.compile(r"[A-Za-z0-9*_][A-Za-z0-9.*_-]*")


class Lineage:
    """One certificate name in one certbot directory."""

    def __init__(self, config_directory: str, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidOption("cert_name", name, "not a certificate name", hint="use letters, digits, dots and hyphens")
        self.name = name
        self.directory = config_directory
        self.live = os.path.join(config_directory, "live", name)
        self.archive = os.path.join(config_directory, "archive", name)
        self.configuration = os.path.join(config_directory, "renewal", f"{name}.conf")

    def exists(self) -> bool:
        """Whether certbot knows it."""
        return os.path.exists(self.configuration) and bool(self.versions())

    def versions(self, suffix: str = "") -> list[int]:
        """Numbers whose four files are all there, those set aside (``ASIDE``) apart."""
        pattern = re.compile(rf"({'|'.join(KINDS)})(\d+)\.pem{re.escape(suffix)}")
        try:
            found = [match.groups() for match in map(pattern.fullmatch, os.listdir(self.archive)) if match]
        except FileNotFoundError:
            return []
        numbers = {int(number) for _kind, number in found}
        return sorted(number for number in numbers if all((kind, str(number)) in found for kind in KINDS))

    def set_aside_versions(self) -> list[int]:
        """Numbers that were set aside, also those where that was interrupted half way."""
        return [number for number in self._numbers() if self._is_whole(number) and number not in self.versions()]

    def current(self) -> int | None:
        """The number that all four links lead to; None when there is none, or when they do not agree."""
        numbers = set()
        for kind in KINDS:
            try:
                match = re.fullmatch(rf"{kind}(\d+)\.pem", os.path.basename(os.readlink(self._link(kind))))
            except OSError:
                return None
            numbers.add(int(match[1]) if match else None)
        return numbers.pop() if len(numbers) == 1 else None

    def certificate(self, number: int) -> Certificate:
        """The certificate of a version, set aside or not."""
        path = self._file("fullchain", number)
        path = path if os.path.exists(path) else path + ASIDE
        with open(path, encoding="utf-8") as stream:
            return from_pem(stream.read(), path)[0]

    def check(self, number: int) -> Certificate:
        """The certificate of a version whose key belongs to it; raises IntegrityError otherwise."""
        certificate = self.certificate(number)
        path = self._file("privkey", number)
        path = path if os.path.exists(path) else path + ASIDE
        with open(path, "rb") as stream:
            if not key_matches(certificate, stream.read()):
                raise IntegrityError(f"{path} is not the key of {self._file('cert', number)}")
        return certificate

    def point(self, number: int) -> None:
        """Make the four links lead to a version; each changes at once, the key first."""
        os.makedirs(self.live, mode=0o755, exist_ok=True)
        for kind in reversed(KINDS):
            replace_link(self._link(kind), os.path.join("..", "..", "archive", self.name, f"{kind}{number}.pem"))
        fsync_directory(self.live)

    def set_aside(self, number: int) -> None:
        """Hide a version from certbot."""
        for kind in KINDS:
            path = self._file(kind, number)
            if os.path.exists(path):
                os.rename(path, path + ASIDE)
        fsync_directory(self.archive)

    def bring_back(self, number: int) -> None:
        """Undo ``set_aside``."""
        for kind in KINDS:
            path = self._file(kind, number)
            if os.path.exists(path + ASIDE):
                os.rename(path + ASIDE, path)
        fsync_directory(self.archive)

    def drop_set_aside(self) -> None:
        """Remove what was set aside; something newer is served."""
        for name in os.listdir(self.archive):
            if name.endswith(ASIDE):
                os.unlink(os.path.join(self.archive, name))

    def settings(self) -> bytes | None:
        """certbot's file about the lineage."""
        try:
            with open(self.configuration, "rb") as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def restore_settings(self, content: bytes) -> None:
        """Write it back as it was."""
        if self.settings() != content:
            mode = os.stat(self.configuration).st_mode & 0o777 if os.path.exists(self.configuration) else 0o644
            write_whole(self.configuration, content, mode=mode)

    def setting(self, name: str) -> str:
        """A value of that file, such as ``server``; empty when it is not there."""
        text = (self.settings() or b"").decode(errors="replace")
        match = re.search(rf"^{re.escape(name)}\s*=\s*(.+)$", text, re.MULTILINE)
        return match[1].strip() if match else ""

    def _numbers(self) -> list[int]:
        try:
            names = os.listdir(self.archive)
        except FileNotFoundError:
            return []
        found = [re.fullmatch(rf"(?:{'|'.join(KINDS)})(\d+)\.pem(?:{re.escape(ASIDE)})?", name) for name in names]
        return sorted({int(match[1]) for match in found if match})

    def _is_whole(self, number: int) -> bool:
        paths = [self._file(kind, number) for kind in KINDS]
        return all(os.path.exists(path) or os.path.exists(path + ASIDE) for path in paths)

    def _link(self, kind: str) -> str:
        return os.path.join(self.live, f"{kind}.pem")

    def _file(self, kind: str, number: int) -> str:
        return os.path.join(self.archive, f"{kind}{number}.pem")


def replace_link(path: str, target: str) -> None:
    """Make a symbolic link, or make it lead elsewhere, in one step."""
    fresh = f"{path}.{os.getpid()}.new"
    if os.path.lexists(fresh):
        os.unlink(fresh)
    os.symlink(target, fresh)
    os.replace(fresh, path)
