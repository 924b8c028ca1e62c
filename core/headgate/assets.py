"""What a deployment refers to - model, code, environment - resolved to content of one commit.

Whatever is not content is refused with a finding: remote paths, subscriptions, images. Nothing is opened but YAML.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from headgate import conda
from headgate.check import closest
from headgate.findings import Finding, Severity, SpecError, TerminalError, TransientError, cut
from headgate.paths import Paths, Spot, read_text, refuse
from headgate.ports import Tree
from headgate.process import Settings
from headgate.spec import Deployment
from headgate.target import EnvironmentPin, ModelPin, SourcePath
from headgate.yamltext import parse

MAX_CODE_BYTES = 256 * 1024 * 1024  # code, not data: a folder larger than this was not meant
MAX_CODE_FILES = 10_000
FOUND = "commit the model and write `model: {path: ...}`, or name a catalogue in headgate.yml (docs/models.md)"
NOTHING = EnvironmentPin("", ())

# (reference, path@content of the file that holds it) -> pin. Raises LookupError, Transient-, TerminalError, NotAsked.
Pin = Callable[[str, str], ModelPin]
T = TypeVar("T")

_REF = re.compile(r"azureml:(?!/)(?P<name>[^:@/\s]+)(?P<rest>[:@][^:@/\s]+)?")
_REGISTRY = re.compile(
    r"azureml://registries/(?P<registry>[^/]+)/\w+/(?P<name>[^/]+)(/(?P<how>versions|labels)/(?P<version>[^/]+))?"
)
_REMOTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*:")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,254}")


class NotAsked(Exception):
    """The catalogue that would know is not asked here."""


@dataclass(slots=True)
class Assets:
    """Resolves the references of one endpoint's deployments and collects what is wrong with them."""

    paths: Paths
    settings: Settings
    pin: Pin | None
    findings: list[Finding] = field(default_factory=list)

    def model(self, d: Deployment, base: str) -> ModelPin | None:
        return self._collect(lambda: self._model(d, base), None)

    def code(self, d: Deployment, base: str) -> tuple[SourcePath | None, str]:
        """The code folder and the script in it."""
        nothing: tuple[SourcePath | None, str] = (None, "")
        return self._collect(lambda: self._code(d, base), nothing)

    def environment(self, d: Deployment, base: str) -> EnvironmentPin:
        return self._collect(lambda: self._environment(d, base), NOTHING)

    def _collect(self, resolve: Callable[[], T], otherwise: T) -> T:
        try:
            return resolve()
        except SpecError as error:
            self.findings += error.findings
            return otherwise

    # Model

    def _model(self, d: Deployment, base: str) -> ModelPin | None:
        model = d.model
        if model is None:
            return None
        if model.ref:
            return self._registered(model.ref, Spot(d.document, ("model",)))
        spot = Spot(d.document, ("model", "path"))
        why = "models come from this repository or from the catalogue"
        if not model.path:
            fix = "add `path:`, or write `model: azureml:NAME:VERSION`"
            raise refuse("missing-field", "`path` is missing in `model`", why, fix, spot)
        if _REMOTE.match(model.path):
            fix = "commit it, or register it and write `azureml:NAME:VERSION`"
            raise refuse("not-here", f"the model `{cut(model.path)}` is remote", why, fix, spot)
        source = self.paths.resolve(model.path, base, spot, "model")
        stem = posixpath.basename(source.path).split(".")[0] or "model"
        name, version = (
            model.name or re.sub(r"[^A-Za-z0-9_\-]", "-", stem).lstrip("-_") or "model",
            model.version or "1",
        )
        for key, value in (("name", name), ("version", version)):
            if not _NAME.fullmatch(value):
                why, fix = "it becomes a folder's name", "use letters, digits, `-`, `_` and `.`"
                bad = Spot(d.document, ("model", key))
                raise refuse("bad-value", f"the model's {key} `{cut(value)}` cannot be used", why, fix, bad)
        return ModelPin(name, version, source)

    def _registered(self, ref: str, spot: Spot) -> ModelPin:
        match = _REF.fullmatch(ref) or _REGISTRY.fullmatch(ref)
        why = "models come from this repository or from the catalogue"
        if match is None:
            message = f"the model `{cut(ref)}` belongs to an Azure subscription"
            raise refuse("not-here", message, why, "write `azureml:NAME:VERSION`", spot)
        if self.pin is None:
            if not self.settings.catalogue and not self.settings.catalogues:
                raise refuse("model-unknown", f"there is no catalogue to look `{cut(ref)}` up in", why, FOUND, spot)
            return self._provisional(match["name"], ref, spot)
        own = match.groupdict().get("registry") in self.settings.catalogues
        file = spot.document.file
        try:
            return self.pin(ref if own else _plain(match), f"{file}@{self.paths.files.get(file, '')}")
        except NotAsked:
            return self._provisional(match["name"], ref, spot)
        except LookupError as error:
            why = str(error.args[0]) if error.args else why
            known = self.settings.catalogue or self.settings.catalogues
            fix = "register it, or name one that is there" if known else FOUND
            raise refuse("model-unknown", f"the catalogue has no `{cut(ref)}`", why, fix, spot) from error
        except TransientError as error:
            fix = "nothing, for a while: it is asked again by itself; else check that the controller can reach it"
            raise refuse("catalogue-unreachable", f"`{cut(ref)}` cannot be looked up", str(error), fix, spot) from error
        except TerminalError as error:
            fix = "correct `catalogues:` in headgate.yml, or the credentials that lie with the controller"
            raise refuse("catalogue-refused", f"`{cut(ref)}` cannot be looked up", str(error), fix, spot) from error

    def _provisional(self, name: str, ref: str, spot: Spot) -> ModelPin:
        message, why = f"`{cut(ref)}` was not looked up", "this check runs without the catalogue"
        fix = "nothing; the controller looks it up"
        self.findings.append(Finding("model-not-resolved", message, why, fix, spot.place, Severity.WARNING))
        return ModelPin(name, "", None)

    # Code

    def _code(self, d: Deployment, base: str) -> tuple[SourcePath | None, str]:
        if not d.code and not d.scoring_script:
            why = "models are served by `init()` and `run()` of a scoring script; models without one are not served yet"
            fix = "add `code_configuration: {code: ../src, scoring_script: score.py}`"
            spot = Spot(d.document, ("name",), key=True)
            raise refuse("not-here", "there is no `code_configuration`", why, fix, spot)
        missing = "code" if not d.code else "scoring_script" if not d.scoring_script else ""
        if missing:
            spot = Spot(d.document, ("code_configuration",), key=True)
            why = "a scoring script is a file in a folder of code"
            raise refuse(
                "missing-field", f"`{missing}` is missing in `code_configuration`", why, f"add `{missing}:`", spot
            )
        spot = Spot(d.document, ("code_configuration", "code"))
        if _REMOTE.match(d.code):
            why = "code comes from this repository"
            raise refuse("not-here", f"the code `{cut(d.code)}` is a registered asset", why, "commit it", spot)
        source = self.paths.resolve(d.code, base, spot, "code")
        self._check_size(source, spot)
        return source, self._script(d, source)

    def _script(self, d: Deployment, code: SourcePath) -> str:
        spot = Spot(d.document, ("code_configuration", "scoring_script"))
        script = posixpath.normpath(d.scoring_script)
        if script.startswith(("/", "..")):
            message, why = f"the scoring script `{cut(d.scoring_script)}` is not inside `code`", "only `code` is copied"
            raise refuse("path-outside", message, why, "move it there", spot)
        path = f"{code.path}/{script}"
        if self.paths.tree.object_id(path) is None:
            message, why = f"the scoring script `{cut(script)}` does not exist", f"there is no `{path}` in this commit"
            raise refuse("script-missing", message, why, self.paths.nearest(path, code.path), spot)
        return script

    def _check_size(self, code: SourcePath, spot: Spot) -> None:
        count, total = self.paths.size(code)
        if count == 0:
            fix = "name the folder, and the file in `scoring_script`"
            raise refuse("path-missing", f"the code `{code.path}` is not a folder", "it is a file", fix, spot)
        if count > MAX_CODE_FILES or total > MAX_CODE_BYTES:
            message = f"the code `{code.path}` has {count:,} files of {total / 1e6:,.0f} MB"
            why = f"at most {MAX_CODE_FILES:,} files and {MAX_CODE_BYTES / 1e6:,.0f} MB are copied beside a model"
            raise refuse("path-size", message, why, "move data and models out of the code folder", spot)

    # Environment

    def _environment(self, d: Deployment, base: str) -> EnvironmentPin:
        asked = d.environment
        if asked is None:
            message, why = "there is no `environment`", "the scoring script finds Python's standard library, no package"
            fix = "add `environment: {conda_file: FILE}`; `conda_file: {dependencies: []}` says that none is needed"
            place = d.document.key_place(("code_configuration",))
            self.findings.append(Finding("no-environment", message, why, fix, place, Severity.WARNING))
            return NOTHING
        if asked.ref:
            return self._curated(asked.ref, Spot(d.document, ("environment",)))
        if asked.container:
            why, fix = "containers of one's own are not served yet", "write `conda_file:` and `code_configuration:`"
            message, spot = (
                "this environment brings its own server or image",
                Spot(d.document, ("environment",), key=True),
            )
            raise refuse("not-here", message, why, fix, spot)
        if not asked.conda_file:
            return EnvironmentPin("", (), asked.image)
        spot = Spot(d.document, ("environment", "conda_file"))
        if isinstance(asked.conda_file, str):
            source = self.paths.resolve(asked.conda_file, base, spot, "conda file")
            pin, found = self._conda_file(source)
        else:
            pin, found = conda.requirements(d.document, ("environment", "conda_file"), asked.conda_file)
        self.findings += found
        return EnvironmentPin(pin.python, pin.requirements, asked.image)

    def _curated(self, ref: str, spot: Spot) -> EnvironmentPin:
        known = self.settings.environments
        match = _REF.fullmatch(ref) or _REGISTRY.fullmatch(ref)
        names = (_plain(match).removeprefix("azureml:"), match["name"]) if match else ()
        for name in names:
            if name in known:
                return EnvironmentPin("", known[name])
        near = closest(names[-1], known) if names else ""
        listed = f"known are {', '.join(sorted(known)[:12])}" if known else "headgate.yml names none"
        entry = f"`environments: {{{names[-1]}: [scikit-learn==1.5.2, ...]}}`" if names else "its packages"
        fix = f"did you mean `{near}`?" if near else f"write `conda_file:`, or add {entry} to headgate.yml"
        why = f"registered environments exist in Azure only; {listed}"
        raise refuse("environment-unknown", f"no packages are known for `{cut(ref)}`", why, fix, spot)

    def _conda_file(self, source: SourcePath) -> tuple[EnvironmentPin, tuple[Finding, ...]]:
        key = ("conda", source.object_id, source.path)
        if key not in self.paths.cache:
            self.paths.cache[key] = _read_conda(self.paths.tree, source.path)
        found: tuple[EnvironmentPin, tuple[Finding, ...]] = self.paths.cache[key]
        return found


def _read_conda(tree: Tree, path: str) -> tuple[EnvironmentPin, tuple[Finding, ...]]:
    data = read_text(tree, path)
    if isinstance(data, Finding):
        return NOTHING, (data,)
    parsed = parse(data, path)
    if parsed.document is None:
        return NOTHING, parsed.findings
    return conda.requirements(parsed.document, (), parsed.document.value)


def _plain(match: re.Match[str]) -> str:
    """`azureml:NAME:VERSION`, `azureml:NAME@LABEL` or `azureml:NAME`, also of a registry's address."""
    parts = match.groupdict()
    if "rest" in parts:
        return f"azureml:{parts['name']}{parts['rest'] or ''}"
    sign = "@" if parts["how"] == "labels" else ":"
    return f"azureml:{parts['name']}" + (f"{sign}{parts['version']}" if parts["version"] else "")
