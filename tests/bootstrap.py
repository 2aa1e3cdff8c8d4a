# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make .venv and install what the lab and the tests need. Runs on any Python 3.6+ with nothing installed.

Takes the newest Python (3.11 to 3.14) that can make virtual environments, the newest ansible-core that runs on it (pinned), and,
where it is root on Debian, the distribution's packages. Anything it cannot do itself it names, with the command that would.
With the argument ``molecule`` it also installs what makes systemd hosts.
Idempotent: a stamp holds a hash of all that the environment was made from.
"""

import contextlib
import glob
import hashlib
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "made-from")
REQUIREMENTS = [os.path.join(ROOT, "requirements", name) for name in ("dev.txt", "postgresql-18.txt")]
DEBIAN = [os.path.join(ROOT, "requirements", name) for name in ("debian.txt", "debian-molecule.txt")]
POLICY = "/usr/sbin/policy-rc.d"
MINORS = range(14, 10, -1)
# The base interpreter: a virtual environment (perhaps our own, which make puts first on PATH) is no ground to build on.
PROBE = "import ensurepip, ssl, venv, sys; print(*sys.version_info[:2], getattr(sys, '_base_executable', sys.executable))"


def say(text):
    """Print at once, so that the order with child output holds."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def candidates():
    """Interpreters to try, newest first: named on PATH, then those of version managers, then this one."""
    managed = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    for minor in MINORS:
        name = f"python3.{minor}"
        for directory in os.environ.get("PATH", "").split(os.pathsep):
            yield os.path.join(directory, name)
        yield from sorted(glob.glob(os.path.join(managed, "versions", f"3.{minor}.*", "bin", "python3")))
        yield os.path.join("/usr/local/bin", name)
    yield shutil.which("python3") or sys.executable


def usable_python():
    """The newest interpreter that really runs, is supported and can make virtual environments."""
    for path in candidates():
        if not os.access(path, os.X_OK):
            continue
        try:
            answer = subprocess.run(
                [path, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30, check=True, text=True
            ).stdout.split()
        except (OSError, subprocess.SubprocessError):
            continue
        if int(answer[0]) == 3 and int(answer[1]) in MINORS:
            return os.path.realpath(answer[2]), "{}.{}".format(*answer[:2])
    raise SystemExit(
        "setup: no usable Python 3.11 to 3.14 with the venv module was found.\n"
        "  On Debian or Ubuntu: apt-get install python3 python3-venv (Debian 12 or newer, Ubuntu 24.04 or newer)."
    )


def missing_packages():
    """Debian packages whose witness is not there."""
    missing = []
    rows = []
    for path in DEBIAN[: 2 if "molecule" in sys.argv[1:] and os.geteuid() == 0 else 1]:
        with open(path, encoding="utf-8") as stream:
            rows += [line.split() for line in stream if line.strip() and not line.startswith("#")]
    for package, witness in rows:
        there = glob.glob(witness) if "/" in witness else shutil.which(witness)
        if not there:
            missing.append(package)
    return missing


def install_packages():
    """Install missing Debian packages when root, otherwise say which."""
    missing = missing_packages()
    if not missing:
        return
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit("setup: missing on this machine: {}\n  As root: {}".format(" ".join(missing), " ".join(command)))
    say("setup: installing {}".format(" ".join(missing)))
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    with no_services():
        for argv in (["apt-get", "update", "-qq"], command):
            done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit("setup: {} failed:\n{}".format(" ".join(argv), done.stdout[-3000:]))


@contextlib.contextmanager
def no_services():
    """Meanwhile no package starts a service, because some would listen beyond loopback; Debian's policy-rc.d decides that."""
    made = None
    if not os.path.lexists(POLICY):
        made = os.open(POLICY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
        os.write(made, b"#!/bin/sh\nexit 101\n")
        os.close(made)
    try:
        yield
    finally:
        if made is not None:
            os.unlink(POLICY)


def fingerprint():
    """Hash of this file and the pins."""
    digest = hashlib.sha256()
    for path in [*REQUIREMENTS, os.path.abspath(__file__)]:
        with open(path, "rb") as stream:
            digest.update(stream.read())
    return digest.hexdigest()


def pip(*arguments):
    """Run the environment's pip; show its output only when it fails."""
    argv = [os.path.join(VENV, "bin", "python"), "-m", "pip", "--disable-pip-version-check", *list(arguments)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit("setup: {} failed:\n{}".format(" ".join(argv), done.stdout[-4000:]))


def made_from():
    """Interpreter and fingerprint of the environment that is there."""
    if not os.path.exists(STAMP):
        return "", ""
    with open(STAMP, encoding="utf-8") as stream:
        return tuple((stream.read() + "\n").split("\n")[:2])


def make_environment():
    """Make .venv, anew for another interpreter, or bring it up to the pins."""
    python, version = usable_python()
    wanted = (python, fingerprint())
    found = made_from()
    if found == wanted:
        return
    if found[0] == python:
        say("setup: bringing .venv up to date")
    else:
        say(f"setup: making .venv with Python {version} ({python})")
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run([python, "-m", "venv", VENV], check=True)
    pip("install", "-q", "-r", REQUIREMENTS[0])
    site = subprocess.run(
        [os.path.join(VENV, "bin", "python"), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    pip(
        "install",
        "-q",
        "--upgrade",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version=3.12",
        "--target",
        site,
        "-r",
        REQUIREMENTS[1],
    )
    with open(STAMP, "w", encoding="utf-8") as stream:
        stream.write("\n".join(wanted))


if __name__ == "__main__":
    install_packages()
    make_environment()
