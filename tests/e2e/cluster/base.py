"""A base image for a machine that can reach no image registry: this host's Python, git, ssh and a shell, by copy.

    python tests/e2e/cluster/base.py REGISTRY/NAME:TAG [--python FILE ...] [--compiler]

Prints REGISTRY/NAME@sha256:...

Needs buildah, and a Debian-like host on which this interpreter runs. Stands in for `python:3.X-slim`, which is what
`make images` is given elsewhere; never published. Copies only files of the host, runs nothing of them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

PROGRAMS = (
    "sh", "cat", "chmod", "chown", "cp", "cut", "date", "env", "find", "grep", "head", "id", "ls", "mkdir", "mv",
    "rm", "sed", "sleep", "sort", "tail", "touch", "tr", "true", "wc", "xargs", "git", "ssh",
)  # fmt: skip
# Of git: a client over https, ssh and git://, and the daemon that tests serve a repository with.
GIT = (
    "git", "git-remote-http", "git-remote-https", "git-http-backend", "git-daemon", "git-upload-pack",
    "git-receive-pack", "git-shell",
)  # fmt: skip
# What wheels for manylinux may take for granted, though nothing above needs it.
LIBRARIES = (
    "libgcc_s.so.1", "libstdc++.so.6", "libgomp.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1",
    "libutil.so.1", "libm.so.6", "libz.so.1", "libexpat.so.1", "libresolv.so.2", "libnss_dns.so.2",
    "libnss_files.so.2", "libmvec.so.1",
)  # fmt: skip
# With --compiler: of gcc and binutils, and what is linked to; for `--compiler` of install/images/build.py.
COMPILER = ("as", "gcc", "ld")
OF_GCC = ("cc1", "collect2", "lto-wrapper")
LINKED = ("crt1.o", "crti.o", "crtn.o", "Scrt1.o", "libc.so", "libc_nonshared.a", "libm.so", "libpthread.a", "libdl.a")
NOT_COPIED = ("test", "idlelib", "tkinter", "turtledemo", "lib2to3", "site-packages", "config-*", "__pycache__")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/ld.so.conf": "/usr/local/lib\n/usr/lib/x86_64-linux-gnu\n/usr/lib/aarch64-linux-gnu\n",
}


def fill(root: Path, more: Sequence[str], *, compiler: bool = False) -> None:
    """A root file system in an empty folder; `more`: other interpreters; `compiler`: gcc and the headers it needs."""
    for name in (
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "usr/sbin",
        "usr/local/bin",
        "usr/local/lib",
        "etc",
        "root",
        "proc",
    ):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("tmp", "var/tmp"):
        (root / name).mkdir(parents=True)
        (root / name).chmod(0o1777)
    for name, text in FILES.items():
        (root / name).write_text(text)
    binaries = [*_python(root, sys.executable, named=("python3", "python")), *_programs(root), *_git(root)]
    for interpreter in more:
        binaries += _python(root, interpreter)
    if compiler:
        binaries += _compiler(root)
    _libraries(root, binaries)
    (root / "etc/ssl/certs").mkdir(parents=True)
    shutil.copy2(CERTIFICATES, root / "etc/ssl/certs/ca-certificates.crt")
    _run("/sbin/ldconfig", "-r", str(root))


def _python(root: Path, interpreter: str, *, named: Sequence[str] = ()) -> list[Path]:
    """An interpreter with its standard library, in /usr/local as Python's own images have them."""
    says = "import os, sys, sysconfig; print(os.path.realpath(sys.executable)); print(sysconfig.get_path('stdlib'))"
    found, stdlib = _run(interpreter, "-I", "-c", says).split()
    binary, home = Path(found), Path(stdlib)
    library = root / "usr/local/lib" / home.name
    shutil.copytree(home, library, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
    (library / "site-packages").mkdir()
    # Unchecked: a layer's times are not the files' own, and the root is read-only.
    compiled = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(library))
    _run(interpreter, *compiled, "-p", f"/usr/local/lib/{home.name}", str(library))
    shutil.copy2(binary, root / "usr/local/bin" / home.name)
    for name in named:
        (root / "usr/local/bin" / name).symlink_to(home.name)
    return [binary, *home.glob("lib-dynload/*.so")]


def _programs(root: Path) -> list[Path]:
    found = [Path(where) for name in PROGRAMS if (where := shutil.which(name, path="/usr/bin:/bin"))]
    for program in found:
        shutil.copy2(program.resolve(), root / "usr/bin" / program.name)
    return found


def _git(root: Path) -> list[Path]:
    core, into = Path("/usr/lib/git-core"), root / "usr/lib/git-core"
    into.mkdir(parents=True)
    there = [core / name for name in GIT if (core / name).exists()]
    for program in there:
        if os.path.samefile(program, "/usr/bin/git"):
            (into / program.name).symlink_to("/usr/bin/git")
        else:
            shutil.copy2(program.resolve(), into / program.name)
    shutil.copytree("/usr/share/git-core/templates", root / "usr/share/git-core/templates")
    return there


def _compiler(root: Path) -> list[Path]:
    headers = Path(sysconfig.get_path("include"))
    shutil.copytree(headers, root / "usr/local/include" / headers.name)
    shutil.copytree("/usr/include", root / "usr/include", ignore=shutil.ignore_patterns("c++", "python*"))
    programs = [Path("/usr/bin", name) for name in COMPILER]
    for program in programs:
        shutil.copy2(program.resolve(), root / "usr/bin" / program.name)
    folder = Path(_run("gcc", "-print-libgcc-file-name").strip()).resolve().parent
    into = root / folder.relative_to("/")
    shutil.copytree(folder / "include", into / "include")
    of_gcc = [folder / name for name in OF_GCC]
    for file in [*of_gcc, *folder.glob("crt*.o"), *folder.glob("libgcc*"), *folder.glob("liblto_plugin*")]:
        shutil.copy2(file, into / file.name)
    target = root / "usr/lib" / _run("gcc", "-print-multiarch").strip()
    target.mkdir(parents=True, exist_ok=True)
    for name in LINKED:
        shutil.copy2(_run("gcc", f"-print-file-name={name}").strip(), target / name)
    return [*programs, *of_gcc]


def _libraries(root: Path, binaries: Iterable[Path]) -> None:
    """Every shared library they need, and the loader, where the loader looks for them."""
    known = re.findall(r"=> (/\S+)", _run("/sbin/ldconfig", "-p"))
    needed = {Path(path) for path in known if Path(path).name in LIBRARIES}
    for binary in binaries:
        needed |= {Path(line) for line in re.findall(r"(/\S+\.so\S*)", _run("ldd", str(binary)))}
    for library in needed:
        own = (
            not library.is_relative_to("/lib")
            and not library.is_relative_to("/lib64")
            and not library.is_relative_to("/usr/lib")
        )
        folder = library.parent.as_posix().removeprefix("/").removeprefix("usr/")
        into = root / "usr" / ("local/lib" if own else folder)
        into.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library.resolve(), into / library.name)


def push(root: Path, reference: str) -> str:
    """Makes an image of a root file system and pushes it; its digest."""
    environ = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot", **os.environ}
    with tempfile.TemporaryDirectory() as scratch:
        digest = Path(scratch, "digest")
        container = _run("buildah", "from", "scratch", env=environ).strip()
        try:
            _run("buildah", "add", "-q", container, str(root), "/", env=environ)
            path = "/usr/local/bin:/usr/bin:/bin"
            _run("buildah", "config", "--env", f"PATH={path}", "--env", "LANG=C.UTF-8", container, env=environ)
            _run("buildah", "commit", "-q", "--timestamp", "0", container, reference, env=environ)
        finally:
            _run("buildah", "rm", container, env=environ)
        _run("buildah", "push", "-q", "--tls-verify=false", "--digestfile", str(digest), reference, env=environ)
        return digest.read_text().strip()


def _run(*command: str, env: dict[str, str] | None = None) -> str:
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if ended.returncode and command[0] != "ldd":  # of a file that is not dynamic, ldd says so
        raise SystemExit(f"{' '.join(command)}: exit {ended.returncode}\n{ended.stderr}")
    return ended.stdout


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="A base image made of this host's Python, and pushed.")
    parser.add_argument("reference", help="REGISTRY/NAME:TAG, of a registry that speaks plain HTTP")
    parser.add_argument("--python", action="append", default=[], help="another interpreter of this host, for models")
    parser.add_argument("--compiler", action="store_true", help="with this host's gcc, to compile on")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "root")
        root.mkdir()
        root.chmod(0o755)
        fill(root, given.python, compiler=given.compiler)
        digest = push(root, given.reference)
    print(f"{given.reference.rpartition(':')[0]}@{digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
