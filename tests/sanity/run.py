# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ``ansible-test sanity`` on a copy of the tree: it wants .../ansible_collections/<namespace>/<name>, and we want no ignores.

The copy holds what git tracks or would track. ansible-test makes a virtual environment per test with a pip that it downloads;
where only a package index can be reached that fails, so the pip bundled with Python stands in for it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
WORK = ROOT / ".cache" / "sanity"
COPY = WORK / "ansible_collections" / "fileforge" / "ops"
HOME = WORK / "home"

GET_PIP = '''"""Stand-in for get-pip: runs the pip wheel that ensurepip carries."""
import ensurepip
import pathlib
import sys

wheel = next(pathlib.Path(ensurepip.__file__).parent.joinpath("_bundled").glob("pip-*.whl"))
sys.path.insert(0, str(wheel))
from pip._internal.cli.main import main

wanted = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
sys.exit(main(["install", "--upgrade", "--force-reinstall", *wanted]))
'''


def tracked_files() -> list[str]:
    """Files that git knows or would add, without the link that makes the clone a collection path."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    return [name for name in listed if name and not name.startswith("collections/") and (ROOT / name).is_file()]


def make_copy() -> None:
    """Make the copy equal to the tree; unchanged files keep their time, so that caches hold."""
    wanted = set(tracked_files())
    for path in sorted(COPY.rglob("*"), reverse=True):
        relative = path.relative_to(COPY)
        if relative.parts[0] == ".git" or relative.parts[:2] == ("tests", "output"):
            continue
        if path.is_file() and str(relative) not in wanted:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for name in wanted:
        target = COPY / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)


def stand_in_pip() -> None:
    """Put the stand-in where ansible-test looks for its downloaded pip."""
    package = importlib.util.find_spec("ansible_test")
    source = Path(package.submodule_search_locations[0], "_internal", "python_requirements.py").read_text()
    versions = re.findall(r"""['"](\d+\.\d+(?:\.\d+)?)['"]""", source)
    cache = HOME / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in versions:
        (cache / f"get_pip_{version.replace('.', '_')}.py").write_text(GET_PIP)


def search_path() -> str:
    """PATH with real interpreters instead of a version manager's shims, which fail for versions that are not selected."""
    managed = Path(os.environ.get("PYENV_ROOT") or Path("~/.pyenv").expanduser())
    kept = [part for part in os.environ["PATH"].split(os.pathsep) if not part.startswith(str(managed))]
    own = [str(Path(sys.executable).parent)]
    return os.pathsep.join(own + [str(path) for path in sorted(managed.glob("versions/3.*/bin"), reverse=True)] + kept)


def main() -> int:
    """Exit with ansible-test's own status."""
    make_copy()
    if not (COPY / ".git").exists():  # otherwise ansible-test asks the repository around the copy, which ignores it
        subprocess.run(["git", "init", "-q", str(COPY)], check=True)
    stand_in_pip()
    environment = {**os.environ, "HOME": str(HOME), "PATH": search_path()}
    environment.pop("ANSIBLE_CONFIG", None)
    argv = ["ansible-test", "sanity", "--local", "--color", "no", *sys.argv[1:]]
    return subprocess.run(argv, cwd=COPY, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
