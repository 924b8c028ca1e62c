"""A conda file to the requirement lines a Python installer reads.

`python=3.11` chooses the interpreter; `pip:` entries are kept as written; a conda package becomes the package of the
same name on the Python index, since for Python packages that is the same software: `numpy=1.24` is `numpy==1.24.*`.
Packages that are no Python software are left out with a warning. Nothing here runs or resolves anything, and lines
that would make an installer read other files or other indexes are refused.
"""

from __future__ import annotations

import re
from typing import Any

from headgate.findings import Finding, Severity
from headgate.target import EnvironmentPin
from headgate.yamltext import Document, Path

# Same software, other name on the Python index.
RENAMED = {"pytorch": "torch", "pytorch-cpu": "torch", "py-xgboost": "xgboost", "opencv": "opencv-python",
           "tensorflow-gpu": "tensorflow", "msgpack-python": "msgpack", "protobuf-python": "protobuf"}  # fmt: skip
# Tools that installers bring themselves.
BROUGHT = {"pip", "setuptools", "wheel", "conda"}
NOT_PYTHON = {
    "blas", "cudatoolkit", "cudnn", "curl", "ffmpeg", "gcc", "git", "gxx", "libblas", "libffi", "libgcc", "libgcc-ng",
    "libgomp", "libstdcxx-ng", "libsqlite", "make", "mkl", "ncurses", "nomkl", "openblas", "openjdk", "openmpi",
    "openssl", "r-base", "readline", "sqlite", "tk", "xz", "zlib",
}  # fmt: skip

_KNOWN_KEYS = {"name", "channels", "dependencies", "prefix", "variables", "platforms"}
_PACKAGE = re.compile(r"(?:[\w.\-/]+::)?(?P<name>[A-Za-z0-9][\w.\-]*)\s*(?P<spec>.*)")
_BUILD = re.compile(r"(?P<version>=[^=,<>|\s]+)=[\w.\-*]+")  # numpy=1.24.3=py311h64a7726_0
_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.\-]*\s*(\[[\w.,\s\-]*\])?\s*([<>=!~@;(].*)?")
_WHY_LINE = "it would make the installer read something other than what this commit says"


def looks_like(value: Any) -> bool:
    """Whether a YAML file is a conda file rather than a deployment."""
    return isinstance(value, dict) and "dependencies" in value


def requirements(document: Document, at: Path, value: Any) -> tuple[EnvironmentPin, tuple[Finding, ...]]:
    """What a conda file asks for; `at` is where it starts in its document (inline: below the deployment)."""
    reader = _Conda(document, at)
    if not isinstance(value, dict) or not isinstance(value.get("dependencies", []), list):
        reader.refuse(at, "this is no conda file", "it has no list of `dependencies`", "write `dependencies:`")
        return EnvironmentPin("", ()), tuple(reader.findings)
    for index, item in enumerate(value.get("dependencies") or []):
        reader.dependency((*at, "dependencies", index), item)
    for key in sorted(value.keys() - _KNOWN_KEYS):
        reader.warn((*at, key), f"`{key}` has no meaning in a conda file", "ignored", "delete it")
    return EnvironmentPin(reader.python, tuple(reader.lines)), tuple(reader.findings)


class _Conda:
    def __init__(self, document: Document, at: Path) -> None:
        self.document = document
        self.at = at
        self.python = ""
        self.lines: list[str] = []
        self.findings: list[Finding] = []

    def dependency(self, path: Path, item: Any) -> None:
        if isinstance(item, dict) and set(item) == {"pip"} and isinstance(item["pip"], list):
            for index, line in enumerate(item["pip"]):
                self.pip((*path, "pip", index), line)
        elif isinstance(item, str):
            self.package(path, item)
        else:
            self.refuse(path, "not a package", "a dependency is `name=version`, or `pip:` with a list", "correct it")

    def package(self, path: Path, text: str) -> None:
        match = _PACKAGE.fullmatch(text.strip())
        if match is None:
            return self.refuse(path, f"`{text[:60]}` is not a conda package", "", "write `name=version`")
        name, spec = match["name"].lower(), match["spec"].strip()
        if name == "python":
            found = re.match(r"={1,2}\s*(\d+\.\d+)", spec)
            self.python = found[1] if found else ""
        elif name in NOT_PYTHON:
            why = "model environments are made of Python packages; the machine has to bring this one"
            self.warn(
                path, f"`{name}` is no Python package and is left out", why, "delete it if the model needs it not"
            )
        elif name not in BROUGHT:
            line = RENAMED.get(name, name) + _pip_spec(spec)
            if not _REQUIREMENT.fullmatch(line):
                return self.refuse(path, f"`{text[:60]}` cannot be installed as a Python package",
                                   "its version is not understood", "write it below `pip:`")  # fmt: skip
            self.lines.append(line)
        return None

    def pip(self, path: Path, line: Any) -> None:
        text = line.strip() if isinstance(line, str) else ""
        if text.startswith("-"):
            return self.refuse(path, f"`{text[:60]}` is an option", _WHY_LINE, "list the packages themselves")
        if not text or not _REQUIREMENT.fullmatch(text) or re.search(r"@\s*(file:|\.|/)", text):
            return self.refuse(path, f"`{str(line)[:60]}` is not a requirement", _WHY_LINE,
                               "write `name==version`; put local code into `code_configuration.code`")  # fmt: skip
        self.lines.append(text)
        return None

    def refuse(self, path: Path, message: str, why: str, fix: str) -> None:
        self.findings.append(Finding("conda-file", message, why, fix, self.document.place(path)))

    def warn(self, path: Path, message: str, why: str, fix: str) -> None:
        self.findings.append(Finding("conda-file", message, why, fix, self.document.place(path), Severity.WARNING))


def _pip_spec(spec: str) -> str:
    """`=1.24` means 1.24.*, `==1.24` exactly that; ranges read alike in both worlds."""
    spec = _BUILD.sub(r"=\g<version>", spec) if not spec.startswith("==") else re.sub(r"^(==[^=]+)=.*", r"\1", spec)
    if not spec:
        return ""
    if spec[0].isdigit():  # `numpy 1.24.*`
        return f"=={spec.split()[0]}"
    if re.fullmatch(r"=[^=].*", spec):
        version = spec[1:].strip()
        return f"=={version}" if version.endswith("*") else f"=={version}.*"
    return spec.replace(" ", "")
