# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which object keys may become file names, and how bytes stand for both. PRIVATE to the collection.

A path inside a tree is bytes, components joined by ``/``: the UTF-8 of the key after the prefix, and the file's name as it is on
disk. Bytes sort as S3 sorts keys.
"""

from __future__ import annotations

import unicodedata

from ansible_collections.fileforge.ops.plugins.module_utils._errors import InvalidOption

LONGEST_NAME = 255
LONGEST_PATH = 4095


def check_prefix(prefix: str) -> str:
    """What stands before the keys of backups, as it is. Raises InvalidOption unless it is empty or names a directory.

    It is put before ``base/``, ``wal/`` and the like as it stands, also by whoever composes the prefix of the files: without its
    slash, backups would lie beside the directory that was meant, and other prefixes could begin with it.
    """
    if prefix.startswith("/") or "//" in prefix:
        raise InvalidOption("prefix", prefix, "keys do not begin with a slash and have no empty components")
    if prefix and not prefix.endswith("/"):
        raise InvalidOption("prefix", prefix, "must end in a slash", hint=f"use {prefix}/")
    return prefix


def key_path(key: str) -> bytes:
    """A key (without its prefix) as a path; a lone surrogate that a file name brought along becomes its byte again."""
    return key.encode("utf-8", "surrogateescape")


def path_text(path: bytes) -> str:
    """A path as text, for keys, results and messages; bytes that are not UTF-8 become lone surrogates."""
    return path.decode("utf-8", "surrogateescape")


def hostile(path: bytes, room: int = LONGEST_PATH) -> str | None:
    """Why a key must not become a file below a directory (``room`` bytes are left for it), or None when it may."""
    if path.startswith(b"/"):
        return "it is absolute"
    if len(path) > room:
        return f"its path would be longer than {LONGEST_PATH} bytes"
    for name in path.split(b"/"):
        reason = _hostile_name(name)
        if reason is not None:
            return reason
    return None


def _hostile_name(name: bytes) -> str | None:
    if not name:
        return "it has an empty component"
    if name in (b".", b".."):
        return f"it has the component {name.decode()!r}"
    if len(name) > LONGEST_NAME:
        return f"it has a component longer than {LONGEST_NAME} bytes"
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return "it is not UTF-8"
    if any(unicodedata.category(char) == "Cc" for char in text):
        return "it has a control character"
    return None


def folders(path: bytes) -> list[bytes]:
    """The directories that a path goes through, outermost first: ``a/b/c`` gives ``a`` and ``a/b``."""
    found = []
    at = path.find(b"/")
    while at >= 0:
        found.append(path[:at])
        at = path.find(b"/", at + 1)
    return found
