# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration's whole history as one object for each commit that was in use: a git bundle. PRIVATE to the collection.

The checkout is only read. The bundle is made in a scratch repository that borrows its objects, is proven by a clone, and then
uploaded as ``config/<commit>.bundle``; an object that is there already is left as it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pwd
import re
import tempfile
import typing as t

from ansible_collections.fileforge.ops.plugins.module_utils import _process
from ansible_collections.fileforge.ops.plugins.module_utils._errors import (
    IntegrityError,
    InvalidOption,
    NotFound,
    ProcessFailed,
    Refused,
)
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.client import ObjectInfo, Store
from ansible_collections.fileforge.ops.plugins.module_utils._objectstore.names import check_prefix

BRANCH = "production"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_SAFE = {"safe.directory": "*", "core.fsmonitor": "false", "core.hooksPath": os.devnull}
"""The checkout may belong to another user: it is read all the same, and nothing that it names is run."""


@dataclasses.dataclass(frozen=True)
class BundleOptions:
    """What to keep, and where."""

    repository: str
    commit: str = "HEAD"
    prefix: str = ""
    timeout: float = 300


class ConfigBundle:
    """One commit of one repository."""

    def __init__(self, store: Store, options: BundleOptions) -> None:
        if not os.path.isdir(options.repository):
            raise InvalidOption("repository", options.repository, "is not a directory on this host")
        check_prefix(options.prefix)
        self._store = store
        self._options = options
        self._owner = _owner(options.repository)
        self.commit = self._resolve()
        self.key = f"{options.prefix}config/{self.commit}.bundle"

    def _git(self, *arguments: str, directory: str | None = None) -> str:
        settings = {
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
        }
        settings["GIT_CONFIG_COUNT"] = str(len(_SAFE))
        for number, (name, value) in enumerate(_SAFE.items()):
            settings[f"GIT_CONFIG_KEY_{number}"], settings[f"GIT_CONFIG_VALUE_{number}"] = name, value
        place = directory or self._options.repository
        settings["GIT_CEILING_DIRECTORIES"] = os.path.dirname(os.path.realpath(place))  # no repository that it merely lies in
        user = None if directory else self._owner
        return _process.run(["git", "-C", place, *arguments], timeout=self._options.timeout, env=settings, user=user).stdout.strip()

    def _resolve(self) -> str:
        commit = self._options.commit
        if commit.startswith("-"):
            raise InvalidOption("commit", commit, "is not the name of a commit")
        try:
            self._git("rev-parse", "--git-dir")
        except ProcessFailed as error:
            raise InvalidOption("repository", self._options.repository, f"is not a git repository: {error.message}") from error
        try:
            found = self._git("rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
        except ProcessFailed as error:
            raise InvalidOption("commit", commit, f"is not in {self._options.repository}") from error
        found = found.splitlines()[-1]
        if not _COMMIT.match(found):
            raise IntegrityError(f"git names the commit {found!r}")
        return found

    def stored(self) -> ObjectInfo | None:
        """The bundle in the bucket, when it is there."""
        try:
            return self._store.head(self.key)
        except NotFound as error:
            if error.state.get("reason") == "key":
                return None
            raise

    def modified(self) -> list[str]:
        """Files of the checkout that differ from its commit: no bundle has them."""
        if self._git("rev-parse", "--is-bare-repository") == "true":
            return []
        lines = self._git("status", "--porcelain", "--untracked-files=no").splitlines()
        return [line[2:].strip() for line in lines]

    def upload(self) -> ObjectInfo:
        """Make the bundle, prove it, upload it."""
        if self._git("rev-parse", "--is-shallow-repository") == "true":
            raise Refused(
                "shallow",
                f"{self._options.repository} is a shallow checkout: its history is not there to be kept",
                hint="fetch the whole history (git fetch --unshallow), or give the repository itself",
            )
        with tempfile.TemporaryDirectory(prefix="fileforge-config-") as scratch:
            file = self._make(scratch)
            self._prove(scratch, file)
            with open(file, "rb") as stream:
                sha256 = hashlib.sha256(stream.read()).hexdigest()
            metadata = {"sha256": sha256, "commit": self.commit, "committed": self._git("show", "-s", "--format=%cI", self.commit)}
            return self._store.put_file(file, self.key, metadata=metadata, content_type="application/octet-stream")

    def _make(self, scratch: str) -> str:
        """In a repository of our own, so that the one that is kept stays as it is."""
        work = os.path.join(scratch, "work")
        os.mkdir(work)
        self._git("init", "--quiet", "--bare", f"--initial-branch={BRANCH}", directory=work)
        objects = os.path.join(self._options.repository, self._git("rev-parse", "--git-path", "objects"))
        with open(os.path.join(work, "objects", "info", "alternates"), "w", encoding="utf-8") as stream:
            stream.write(f"{objects}\n")
        self._git("update-ref", f"refs/heads/{BRANCH}", self.commit, directory=work)
        file = os.path.join(scratch, "configuration.bundle")
        self._git("bundle", "create", "--quiet", file, "HEAD", BRANCH, directory=work)
        return file

    def _prove(self, scratch: str, file: str) -> None:
        """A bundle from which nothing can be cloned is no backup."""
        proof = os.path.join(scratch, "proof")
        self._git("clone", "--quiet", "--bare", file, proof, directory=scratch)
        found = self._git("rev-parse", "HEAD", directory=proof)
        if found != self.commit:
            raise IntegrityError(f"{self.key}: the bundle leads to {found} instead of {self.commit}")


def _owner(directory: str) -> str | None:
    """Who owns the repository: its own configuration can name programs, and these must not run as root for somebody else."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwuid(os.stat(directory).st_uid).pw_name
    except KeyError as error:
        raise Refused(
            "owner_unknown",
            f"{directory} belongs to user id {os.stat(directory).st_uid}, which has no name on this host",
            hint="give it to the user who maintains the checkout",
        ) from error


def run_bundle(store: Store, options: BundleOptions, *, check_mode: bool = False) -> dict[str, t.Any]:
    """Keep the commit unless it is kept; the keys of the module's result."""
    bundle = ConfigBundle(store, options)
    found = bundle.stored()
    modified = bundle.modified()
    result: dict[str, t.Any] = {
        "changed": found is None,
        "commit": bundle.commit,
        "key": bundle.key,
        "modified": modified,
        "warnings": [],
        "diff": {"before": "", "after": f"{bundle.key}\n" if found is None else ""},
    }
    if modified:
        result["warnings"].append(
            f"{len(modified)} files in {options.repository} differ from commit {bundle.commit[:12]} and are in no bundle, "
            f"for example {modified[0]}"
        )
    if found is None and not check_mode:
        found = bundle.upload()
    result["bytes"] = None if found is None else found.size
    result["sha256"] = None if found is None else found.metadata.get("sha256")
    return result
