# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Systemd hosts for Molecule, reached by ssh: ``python -m tests.molecule.hosts up | run COMMAND... | down``.

The hosts are containers with systemd as PID 1, made from Debian packages, so no image registry is needed. They live in a mount
and a network namespace of their own: the machine's cgroup tree, addresses, routes and firewall are left alone. ``up`` writes an
inventory; ``run`` runs a command (Molecule) where that inventory's addresses can be reached. Point Molecule at other hosts with
an inventory of your own: MOLECULE_HOSTS=/path/to/inventory.yml.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache" / "molecule"
STATE = Path("/run/fileforge-molecule")
NETNS = "fileforge-molecule"
MOUNTNS = STATE / "mount"
SLIRP_PID = STATE / "slirp.pid"
NETWORK = "fileforge-molecule"
INVENTORY = WORK / "inventory.json"
HOSTS = {"db-bookworm": "bookworm", "db-trixie": "trixie", "s3": "bookworm"}
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-apt,openssh-server,procps,iproute2,ca-certificates"
UNUSED_UNITS = ["systemd-networkd.service", "systemd-resolved.service", "systemd-timesyncd.service", "apt-daily.timer",
                "apt-daily-upgrade.timer", "getty.target", "console-getty.service", "systemd-logind.service"]  # fmt: skip

# podman's own defaults ask for more than an unprivileged machine may grant; crun refuses a hybrid cgroup tree, runc does not.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]
pids_limit = 0
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""


def environment() -> dict[str, str]:
    return {**os.environ, "CONTAINERS_CONF": str(WORK / "containers.conf")}


def run(*argv: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, check=check, text=True, env=environment(), **options)


def inside(*argv: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{NETNS}", f"--mount={MOUNTNS}", f"--wdns={Path.cwd()}", *argv]


def podman(*argv: str, check: bool = True) -> str:
    return run(*inside("podman", *argv), check=check, stdout=subprocess.PIPE).stdout.strip()


def namespaces_up() -> None:
    """One persistent mount namespace (with a cgroup v2 tree) and one network namespace with a user-space uplink."""
    STATE.mkdir(exist_ok=True)
    run("mount", "--bind", str(STATE), str(STATE))
    run("mount", "--make-private", str(STATE))
    MOUNTNS.touch()
    run("ip", "netns", "add", NETNS)
    run("ip", "-n", NETNS, "link", "set", "lo", "up")
    run("unshare", f"--mount={MOUNTNS}", "--propagation", "private", "mount", "-t", "cgroup2", "none", "/sys/fs/cgroup")
    with (WORK / "slirp.log").open("w") as log:
        namespace = ["--netns-type=path", f"/run/netns/{NETNS}", "tap0"]
        slirp = subprocess.Popen(
            ["slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", *namespace],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    SLIRP_PID.write_text(str(slirp.pid))
    show = ["ip", "-n", NETNS, "-4", "addr", "show", "dev", "tap0"]
    wait("uplink", lambda: "inet " in run(*show, check=False, capture_output=True).stdout)


def wait(what: str, probe: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            raise SystemExit(f"molecule hosts: no {what} within {seconds:g} s")
        time.sleep(0.2)


def build_image(suite: str) -> str:
    image = f"localhost/fileforge-ops-{suite}:1"
    if run(*inside("podman", "image", "exists", image), check=False).returncode == 0:
        return image
    print(f"molecule hosts: building {image}", flush=True)
    sources = Path("/etc/apt/sources.list.d/debian.sources").read_text().splitlines()
    renamed = [
        (f"Suites: {suite}-security" if "-security" in line else f"Suites: {suite} {suite}-updates")
        if line.startswith("Suites:")
        else line
        for line in sources
    ]
    source_file = WORK / f"{suite}.sources"
    source_file.write_text("\n".join(renamed) + "\n")
    hooks = [
        'rm -f "$1"/etc/hostname "$1"/etc/resolv.conf; : > "$1"/etc/machine-id',
        f'chroot "$1" systemctl mask {" ".join(UNUSED_UNITS)}',
    ]
    build = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--skip=cleanup/apt/lists", f"--include={PACKAGES}",
             "--aptopt=Acquire::Check-Valid-Until \"false\"", "--aptopt=Acquire::Languages \"none\"", "--dpkgopt=force-unsafe-io",
             *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")),
             *(f"--customize-hook={hook}" for hook in hooks), suite, "-", str(source_file)]  # fmt: skip
    with subprocess.Popen(build, stdout=subprocess.PIPE, env=environment()) as bootstrap:
        imported = inside("podman", "import", "-q", "--change", 'CMD ["/sbin/init"]', "--change", "STOPSIGNAL SIGRTMIN+3",
                          "--change", "ENV container=podman", "-", image)  # fmt: skip
        run(*imported, stdin=bootstrap.stdout, stdout=subprocess.DEVNULL)
    if bootstrap.returncode != 0:
        raise SystemExit(f"molecule hosts: building {image} failed")
    return image


def start_host(name: str, image: str, public_key: str) -> str:
    """Start one host; return its address once systemd is up and ssh answers."""
    weed = shutil.which("weed") or str(ROOT / ".venv/bin/weed")
    podman("run", "-d", "--name", name, "--hostname", name, "--systemd=always", "--network", NETWORK, "--pull=never",
           "-v", f"{weed}:/usr/local/bin/weed:ro", image, "/sbin/init")  # fmt: skip
    wait(
        f"systemd in {name}", lambda: podman("exec", name, "systemctl", "is-system-running", check=False) in ("running", "degraded")
    )
    run(
        *inside("podman", "exec", "-i", name, "sh", "-c", "install -d -m 700 /root/.ssh && cat > /root/.ssh/authorized_keys"),
        input=public_key,
    )
    return podman("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name)


def up() -> None:
    if os.geteuid() != 0:
        raise SystemExit("molecule hosts: needs root for namespaces; or give MOLECULE_HOSTS an inventory of your own hosts")
    down()
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "containers.conf").write_text(CONTAINERS_CONF)
    key = WORK / "id_ed25519"
    if not key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    namespaces_up()
    remove_containers()
    images = {suite: build_image(suite) for suite in sorted(set(HOSTS.values()))}
    podman("network", "create", NETWORK)
    public_key = key.with_suffix(".pub").read_text()
    addresses = {name: start_host(name, images[suite], public_key) for name, suite in HOSTS.items()}
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    hosts = {name: {"ansible_host": address} for name, address in addresses.items()}
    common = {"ansible_user": "root", "ansible_ssh_private_key_file": str(key), "ansible_ssh_common_args": options,
              "ansible_python_interpreter": "/usr/bin/python3"}  # fmt: skip
    groups = {"database": {"hosts": {name: {} for name in hosts if name.startswith("db-")}}, "object_store": {"hosts": {"s3": {}}}}
    INVENTORY.write_text(json.dumps({"all": {"hosts": hosts, "vars": common, "children": groups}}, indent=2))
    print(f"molecule hosts: {', '.join(f'{name} {address}' for name, address in addresses.items())}")


def remove_containers() -> None:
    """Containers and their network outlive the namespaces: podman keeps them on disk, also over a restart of the machine."""
    for name in HOSTS:
        run(*inside("podman", "rm", "-f", "-t", "2", name), check=False, capture_output=True)
    run(*inside("podman", "network", "rm", "-f", NETWORK), check=False, capture_output=True)


def down() -> None:
    """Stop and remove everything that ``up`` made, also after it was killed half way."""
    if MOUNTNS.exists() and Path(f"/run/netns/{NETNS}").exists():
        remove_containers()
    if SLIRP_PID.exists():
        pid = int(SLIRP_PID.read_text())
        if Path(f"/proc/{pid}/comm").exists() and Path(f"/proc/{pid}/comm").read_text().strip() == "slirp4netns":
            os.kill(pid, signal.SIGTERM)
            wait(
                "end of the uplink",
                lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2],
            )
    for argv in (["umount", str(MOUNTNS)], ["ip", "netns", "del", NETNS], ["umount", "-l", str(STATE)]):
        run(*argv, check=False, capture_output=True)
    shutil.rmtree(STATE, ignore_errors=True)


def main() -> None:
    verb, *rest = sys.argv[1:] or ["help"]
    if verb == "up":
        up()
    elif verb == "down":
        down()
    elif verb == "run" and rest:
        os.execvpe("nsenter", inside(*rest), environment())
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
