"""What the container is made of: Debian trixie with its systemd, and Plugmeter as on a device.

Made once for the inputs' hash and kept outside the source tree. Needs root: the tree has owners.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.guest.build import KEYRING, Missing, cache_directory, mirror

SOURCE = Path(__file__).resolve().parents[3]
SUITE = "trixie"
PACKAGES = "systemd,systemd-sysv,dbus,udev,python3,python3-venv,libudev1,procps,ca-certificates"
CHECKOUT = "/usr/src/plugmeter"
"""Where this checkout is seen inside."""
LAUNCHER = "usr/lib/plugmeter/plugmeter"
"""What the units start. On a device it is the frozen binary."""


def root() -> Path:
    """The tree of the container, built at the first call on this machine. Raises ``Missing``."""
    if os.geteuid() != 0:
        raise Missing("needs root, to build and boot a systemd container")
    for program in ("mmdebstrap", "systemd-nspawn", "unshare"):
        if shutil.which(program) is None:
            raise Missing(f"needs {program} (scripts/test installs it as root)")
    cached = cache_directory() / f"systemd-{_inputs_hash()}"
    if not cached.is_dir():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".systemd-", dir=cached.parent) as scratch:
            tree = Path(scratch, "root")
            _build(tree)
            tree.rename(cached)
    return cached


def _inputs_hash() -> str:
    digest = hashlib.sha256(PACKAGES.encode())
    for path in (Path(__file__), SOURCE / "firmware/requirements/device.lock", SOURCE / "scripts/lib.sh"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build(tree: Path) -> None:
    _run(
        [
            "mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", f"--keyring={KEYRING}",
            SUITE, str(tree), mirror(),
        ]
    )  # fmt: skip
    # Plugmeter's packages come as on any machine: by scripts/setup, inside, through this host's network.
    for name in ("resolv.conf", "hosts", "pip.conf"):
        if Path("/etc", name).is_file():
            shutil.copyfile(Path("/etc", name), tree / "etc" / name)
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.is_file():
        shutil.copyfile(bundle, tree / "etc/ssl/certs/ca-certificates.crt")
    (tree / CHECKOUT.lstrip("/")).mkdir(parents=True)
    inside = f"""
        set -e
        mount --bind -o ro '{SOURCE}' '{tree}{CHECKOUT}'
        mount --bind /dev '{tree}/dev'
        mount -t proc proc '{tree}/proc'
        exec chroot '{tree}' env HOME=/root XDG_CACHE_HOME=/var/cache bash {CHECKOUT}/scripts/setup device
    """
    _run(["unshare", "--mount", "--propagation", "private", "sh", "-c", inside])
    launcher = tree / LAUNCHER
    launcher.parent.mkdir(parents=True, exist_ok=True)
    # The packages of the lock, and the sources of the checkout: a change of ours rebuilds nothing.
    launcher.write_text(
        "#!/bin/sh\n"
        f"export PYTHONPATH={CHECKOUT}/firmware PYTHONDONTWRITEBYTECODE=1\n"
        'exec /var/cache/plugmeter/deps-device-*/bin/python -m plugmeter "$@"\n'
    )
    launcher.chmod(0o755)
    (tree / "var/cache/plugmeter").chmod(0o755)


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise RuntimeError(f"{' '.join(argv)[:80]} failed with {done.returncode}: {' '.join(said)}")
