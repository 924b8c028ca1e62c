"""Compiles the router's data path with mypyc, inside a folder that holds the packages `headgate` and `headgate_router`.

    python install/compile.py FOLDER        prints the files it made
    python install/compile.py --missing     prints what this machine lacks for it; nothing: it can be done

Needs mypy, setuptools and a C compiler with Python's headers. The sources stay beside the extension modules: without
the latter everything runs as before, only slower. Only what every request goes through is compiled, and all of what
inherits from it. What is made serves this version of Python on this kind of machine; another one goes by the sources.
Refuses a folder that is a source tree: there, extension modules would hide what is edited next.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

# In the router's package. All of one family: a class that is not compiled cannot inherit from one that is.
MODULES = (
    "auth",
    "choose",
    "copies",
    "count",
    "headers",
    "ids",
    "limits",
    "mirror",
    "place",
    "redact",
    "refusals",
    "request",
    "routes",
    "streams",
    "upstream",
    "dataplanes/builtin/answer",
    "dataplanes/builtin/asgi",
    "dataplanes/builtin/asking",
    "dataplanes/builtin/body",
    "dataplanes/builtin/caller",
    "dataplanes/builtin/chunks",
    "dataplanes/builtin/client",
    "dataplanes/builtin/dial",
    "dataplanes/builtin/doors",
    "dataplanes/builtin/ending",
    "dataplanes/builtin/exchange",
    "dataplanes/builtin/failures",
    "dataplanes/builtin/protocol",
    "dataplanes/builtin/reading",
    "dataplanes/builtin/tunnel",
)
PACKAGE = "headgate_router"


def missing() -> str:
    """What there is no machine code without; empty: it is all here."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"no C compiler: `{compiler}` is not on the PATH"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return "" if header.is_file() else f"no headers of Python {sys.version_info[0]}.{sys.version_info[1]}: {header}"


def compile_in(folder: Path) -> list[Path]:
    """The extension modules, put beside their sources; those of an earlier run are replaced."""
    for old in [*folder.glob(f"{PACKAGE}__mypyc*.so"), *(folder / PACKAGE).rglob("*.so")]:
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="compile-") as scratch:
        built = _built(folder, Path(scratch))
        made = [folder / path.relative_to(built) for path in sorted(built.rglob("*.so"))]
        for path in made:
            shutil.copy2(built / path.relative_to(folder), path)
    return made


def _built(folder: Path, scratch: Path) -> Path:
    # Here, because whoever only wants the list of modules needs neither.
    from mypyc.build import mypycify
    from setuptools import setup

    os.environ["MYPYPATH"] = str(folder)
    os.chdir(folder)  # the names of sources stand in what is made: tracebacks, and the same bytes wherever it is made
    settings = scratch / "mypy.ini"
    settings.write_text(
        "[mypy]\nexplicit_package_bases = True\nnamespace_packages = True\n"
        f"ignore_missing_imports = True\nfollow_untyped_imports = True\ncache_dir = {scratch / 'cache'}\n"
    )
    sources = [f"{PACKAGE}/{module}.py" for module in MODULES]
    extensions = mypycify([f"--config-file={settings}", *sources], group_name=PACKAGE, target_dir=str(scratch / "c"))
    for extension in extensions:
        # A warning of some other compiler is no reason to go without; nobody debugs an image's C.
        extension.extra_compile_args = [*(extension.extra_compile_args or []), "-Wno-error", "-g0"]
    built = scratch / "built"
    setup(
        name="headgate-data-path",
        packages=[],
        ext_modules=extensions,
        script_args=["--quiet", "build_ext", f"--build-lib={built}", f"--build-temp={scratch / 'objects'}"],
    )
    return built


def main(argv: Sequence[str]) -> int:
    lacks = missing()
    if argv == ["--missing"]:
        print(lacks, end="")
        return 0
    if len(argv) != 1 or not Path(argv[0], PACKAGE).is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(argv[0]).resolve()
    if (folder.parent / "pyproject.toml").exists():
        print(f"{folder} is a source tree: copy its packages to another folder first", file=sys.stderr)
        return 2
    if lacks:
        print(lacks, file=sys.stderr)
        return 1
    for path in compile_in(folder):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
