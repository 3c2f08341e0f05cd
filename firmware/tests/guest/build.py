"""What the guest is made of: Debian trixie's arm64 kernel and just enough around it to run our tests.

Packages come through apt with a private configuration and are only unpacked, wheels come through
pip; no foreign binary is run and no privilege is needed. The one program that runs from a package is
the *host* architecture's python3.13, which compiles the guest's modules (byte code depends on the
minor version and not on the architecture): under emulation that would take minutes.

The result is cached, by the hash of what is asked for, outside the source tree.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.guest.cpio import CpioWriter

HERE = Path(__file__).parent
SUITE = "trixie"
ARCH = "arm64"
PYTHON = "python3.13"

# With their dependencies. The kernel comes without: nothing is installed, so nothing needs its hooks.
PACKAGES = ("busybox-static", "libc-bin", "libudev1", "python3.13")
KERNEL_META = "linux-image-arm64"
COMPILER_PACKAGES = ("python3.13-minimal",)

WHEELS = ("colorzero", "gpiod", "gpiozero", "hypothesis", "inotify-simple", "msgspec", "pytest", "pyudev")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")

# Their dependencies follow from the modules' own "depends" fields.
MODULES = (
    "configfs", "dummy_hcd", "libcomposite", "sd_mod", "usb_f_mass_storage", "usb-storage", "xhci-pci",
)  # fmt: skip

MIRROR_ENV = "PLUGMETER_DEBIAN_MIRROR"
CACHE_ENV = "PLUGMETER_GUEST_CACHE"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class Missing(Exception):
    """The guest cannot be built or run here; the text starts with "needs" and says what to do."""


@dataclass(frozen=True, slots=True)
class Image:
    """A built guest: the kernel, and the root as one uncompressed cpio archive."""

    kernel: Path
    root: Path
    seconds: float
    """How long the build took; 0.0 where it came from the cache."""


def image(environ: Mapping[str, str] = os.environ) -> Image:
    """The guest's kernel and root, built at the first call on this machine. Raises ``Missing``."""
    cached = cache_directory(environ) / f"guest-{inputs_hash()}"
    seconds = 0.0
    if not cached.is_dir():
        began = time.monotonic()
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".guest-", dir=cached.parent) as scratch:
            built = _build(Path(scratch), environ)
            try:
                built.rename(cached)
            except OSError:
                if not cached.is_dir():
                    raise
                # Another run was first; its image is as good as ours.
        seconds = time.monotonic() - began
    return Image(cached / "vmlinuz", cached / "root.cpio", seconds)


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where images are kept: $PLUGMETER_GUEST_CACHE, or plugmeter/ in the user's cache directory."""
    if given := environ.get(CACHE_ENV):
        return Path(given)
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plugmeter"


def inputs_hash() -> str:
    """Names the image by its recipe, the files here. A later version of a package does not change it."""
    digest = hashlib.sha256()
    for name in ("build.py", "cpio.py", "init"):
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def mirror(environ: Mapping[str, str] = os.environ) -> str:
    """The URI of a Debian mirror: from the environment, or the one that this host's apt uses."""
    if given := environ.get(MIRROR_ENV):
        return given
    listed = _run(["apt-get", "--print-uris", "update"])
    codename, distribution = _os_release("VERSION_CODENAME"), _os_release("ID")
    found = re.search(rf"'(\S+?)/dists/{re.escape(codename)}/InRelease'", listed) if codename else None
    if distribution != "debian" or found is None:
        raise Missing(f"needs {MIRROR_ENV}: this host's apt names no Debian mirror; set it to one's URI")
    return found[1]


def _build(scratch: Path, environ: Mapping[str, str]) -> Path:
    for program in ("apt-get", "dpkg-deb", "dpkg"):
        if shutil.which(program) is None:
            raise Missing(
                f"needs {program}, to unpack Debian's packages: build the guest on Debian or Ubuntu"
            )
    if not KEYRING.is_file():
        raise Missing("needs the package debian-archive-keyring (scripts/test installs it as root)")
    uri = mirror(environ)
    guest_apt = _Apt(scratch / "apt-guest", ARCH, uri)
    root, out = scratch / "root", scratch / "out"
    out.mkdir()
    for deb in guest_apt.download(PACKAGES):
        _unpack(deb, root)
    kernel = scratch / "kernel"
    for deb in guest_apt.download_alone(guest_apt.kernel_package()):
        _unpack(deb, kernel)
    # Moved and not copied; the archive of kernel and modules is the largest part by far.
    next((kernel / "boot").glob("vmlinuz-*")).rename(out / "vmlinuz")
    _modules(kernel, root)
    _wheels(scratch / "wheels", root)
    _prune(root)
    _compile(scratch, uri, root)
    _skeleton(root)
    with open(out / "root.cpio", "wb") as stream:
        archive = CpioWriter(stream)
        archive.tree(root)
        # The kernel opens it for /init before /init has mounted devtmpfs.
        archive.device("dev/console", 5, 1)
        archive.close()
    return out


class _Apt:
    """apt with configuration, lists and archives of its own: it neither reads nor touches the host's."""

    def __init__(self, home: Path, arch: str, uri: str) -> None:
        for part in ("state/lists/partial", "cache/archives/partial", "etc/parts"):
            (home / part).mkdir(parents=True)
        (home / "state/status").touch()
        (home / "etc/sources.list").write_text(f"deb [arch={arch} signed-by={KEYRING}] {uri} {SUITE} main\n")
        self._home = home
        config = home / "apt.conf"
        # The user apt would drop to cannot enter the scratch directory.
        config.write_text(
            f'Dir::State "{home}/state";\nDir::State::status "{home}/state/status";\n'
            f'Dir::Cache "{home}/cache";\nDir::Etc "{home}/etc";\n'
            f'Dir::Etc::sourcelist "{home}/etc/sources.list";\nDir::Etc::sourceparts "{home}/etc/parts";\n'
            f'APT::Architecture "{arch}";\nAPT::Architectures {{ "{arch}"; }};\n'
            f'APT::Sandbox::User "";\nAPT::Install-Recommends "false";\nDebug::NoLocking "true";\n'
            f'Acquire::Languages "none";\nAPT::Get::Assume-Yes "true";\n'
        )
        self._env = {**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"}
        self._get("update")

    def download(self, packages: Sequence[str]) -> list[Path]:
        """The .deb files of ``packages`` and of all that they depend on."""
        self._get("install", "--download-only", *packages)
        return sorted((self._home / "cache/archives").glob("*.deb"))

    def download_alone(self, package: str) -> list[Path]:
        """The .deb file of ``package`` without its dependencies."""
        before = self._home / "alone"
        before.mkdir()
        _run(["apt-get", "-q", "download", package], env=self._env, cwd=before)
        return list(before.glob("*.deb"))

    def kernel_package(self) -> str:
        """The package that the kernel's meta package depends on now."""
        shown = _run(["apt-cache", "depends", "--important", KERNEL_META], env=self._env)
        found = re.search(r"Depends: (linux-image-\S+)", shown)
        if found is None:
            raise Missing(f"needs a mirror of Debian {SUITE} with {KERNEL_META} (set {MIRROR_ENV})")
        return found[1]

    def _get(self, *arguments: str) -> None:
        _run(["apt-get", "-q", *arguments], env=self._env)


def _unpack(deb: Path, into: Path) -> None:
    """Unpack a .deb; trixie's are merged-/usr, so that /lib and /bin are links made beforehand."""
    into.mkdir(exist_ok=True)
    for name in ("bin", "lib", "sbin"):
        (into / "usr" / name).mkdir(parents=True, exist_ok=True)
        link = into / name
        if not link.is_symlink():
            link.symlink_to(f"usr/{name}")
    _run(["dpkg-deb", "--fsys-tarfile", str(deb)], into_tar=into)


def _modules(kernel: Path, root: Path) -> None:
    """The wanted modules and what they depend on, uncompressed, with a modules.dep for busybox's modprobe."""
    release = next((kernel / "usr/lib/modules").iterdir())
    builtin = {Path(line).name for line in (release / "modules.builtin").read_text().split()}
    files = {path.name.removesuffix(".ko.xz").replace("-", "_"): path for path in release.rglob("*.ko.xz")}
    target = root / "usr/lib/modules" / release.name
    target.mkdir(parents=True)
    depends: dict[str, list[str]] = {}
    wanted = [name.replace("-", "_") for name in MODULES if f"{name}.ko" not in builtin]
    while wanted:
        name = wanted.pop()
        if name in depends:
            continue
        # Uncompressed, because the guest's processor is emulated.
        data = lzma.decompress(files[name].read_bytes())
        (target / f"{name}.ko").write_bytes(data)
        field = re.search(rb"\0depends=([^\0]*)\0", data)
        depends[name] = field[1].decode().replace("-", "_").split(",") if field and field[1] else []
        wanted += depends[name]

    def closure(name: str) -> list[str]:
        """What to load for ``name``, last first, as modprobe wants it: each before what it depends on."""
        order: list[str] = []

        def visit(module: str) -> None:
            for direct in depends[module]:
                visit(direct)
            if module not in order:
                order.append(module)

        visit(name)
        return order[-2::-1]

    lines = [f"{name}.ko: {' '.join(f'{d}.ko' for d in closure(name))}\n" for name in sorted(depends)]
    (target / "modules.dep").write_text("".join(lines))


def _wheels(wheels: Path, root: Path) -> None:
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    _run(
        [
            sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check",
            "--only-binary=:all:", "--implementation", "cp",
            "--python-version", PYTHON.removeprefix("python"), *platforms, "-d", str(wheels), *WHEELS,
        ]
    )  # fmt: skip
    into = root / "usr/lib/python3/dist-packages"
    into.mkdir(parents=True, exist_ok=True)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)


# Neither read by a test nor by the interpreter: every megabyte is unpacked under emulation.
PRUNED = (
    "etc", "var", "usr/share", "usr/lib/valgrind", "usr/lib/python3.13/idlelib", "usr/lib/python3.13/tkinter",
    "usr/lib/python3.13/pydoc_data", "usr/lib/python3.13/ensurepip", "usr/lib/python3.13/turtledemo",
    "usr/lib/aarch64-linux-gnu/gconv", "usr/lib/aarch64-linux-gnu/perl-base", "usr/lib/systemd",
)  # fmt: skip


def _prune(root: Path) -> None:
    for name in PRUNED:
        shutil.rmtree(root / name, ignore_errors=True)


def _compile(scratch: Path, uri: str, root: Path) -> None:
    """Byte code for every module of the guest, by the host architecture's build of the same Python."""
    host = scratch / "host"
    arch = _run(["dpkg", "--print-architecture"]).strip()
    for deb in _Apt(scratch / "apt-host", arch, uri).download(COMPILER_PACKAGES):
        _unpack(deb, host)
    loader = next(path for path in sorted((host / "usr/lib").rglob("ld-linux*.so.*")))
    library_path = ":".join(str(path.parent) for path in host.rglob("libc.so.6"))
    command = [str(loader), "--library-path", library_path, str(host / "usr/bin" / PYTHON)]
    # Unchecked: nobody edits the guest's library, and its files' times are not kept.
    compileall = ["-m", "compileall", "-q", "-s", str(root), "--invalidation-mode", "unchecked-hash"]
    library = root / "usr/lib" / PYTHON
    trees = [str(library), str(root / "usr/lib/python3/dist-packages")]
    skipped = ["-x", r"/(lib2to3|test|bad_coding)/"]
    env = {"PYTHONHOME": str(root / "usr"), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    _run([*command, *compileall, *skipped, *trees], env=env)


def _skeleton(root: Path) -> None:
    for name in ("dev", "etc", "proc", "run", "src", "sys", "tmp"):
        (root / name).mkdir(exist_ok=True)
    busybox = root / "usr/bin/busybox"
    for name in ("sh", "mount", "umount", "modprobe", "poweroff", "ip", "cat", "sleep", "uname"):
        link = root / "usr/bin" / name
        if not link.exists():
            link.symlink_to(busybox.name)
    (root / "usr/bin/python3").unlink(missing_ok=True)
    (root / "usr/bin/python3").symlink_to(PYTHON)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    # pyudev finds libudev through ldconfig's cache, which /init makes.
    (root / "etc/ld.so.conf").write_text("/usr/lib/aarch64-linux-gnu\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    init = root / "init"
    init.write_bytes((HERE / "init").read_bytes())
    init.chmod(0o755)


def _os_release(key: str) -> str:
    found = re.search(rf'^{key}="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE)
    return found[1] if found else ""


def _run(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    into_tar: Path | None = None,
) -> str:
    """Run a command, optionally unpacking the tar archive that it prints; its failure is a ``Missing``."""
    if into_tar is not None:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as producer:
            tar = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(into_tar)]
            unpacked = subprocess.run(tar, stdin=producer.stdout, capture_output=True, text=True)
        status, said = producer.returncode or unpacked.returncode, unpacked.stderr
    else:
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
        status, said = done.returncode, done.stderr
        if status == 0:
            return done.stdout
    if status != 0:
        last = said.strip().splitlines()[-1:] or ["no message"]
        raise Missing(
            f"needs packages for the guest, and {Path(command[0]).name} {command[1]} failed: {last[0]}"
        )
    return ""
