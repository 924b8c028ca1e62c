"""One commit's files to what they ask of one endpoint: a `Target`, or findings that say why there is none.

Reads only the tree it is given, opens only YAML, runs nothing. `Reading.files` names every path the answer depends
on, with its content id: a commit that changes none of them changes nothing here. Texts are read once per content when
the caller passes a `cache`, so that a repository of ten thousand endpoints costs what a commit changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from headgate import conda, gateblocks, settings, spec
from headgate.assets import Assets, Pin
from headgate.check import closest
from headgate.findings import Finding, Place, in_order, is_text
from headgate.gateblocks import SETTINGS
from headgate.paths import Paths, read_text
from headgate.ports import Tree
from headgate.process import Process, Settings
from headgate.revision import revision_id
from headgate.secretrefs import parse_reference
from headgate.target import DeploymentTarget, RouterSettings, RunSettings, Source, SourcePath, Target
from headgate.traffic import per_mille
from headgate.yamltext import Document, parse

ROOT = "endpoints"
CACHED = 200_000  # entries; a cache that grew past it starts again
MAX_SAMPLE = 10_000_000  # bytes of a sample request
SUFFIXES = (".yml", ".yaml")


@dataclass(frozen=True, slots=True)
class Reading:
    target: Target | None  # None: an error finding says why
    findings: tuple[Finding, ...] = ()  # in order; warnings too
    files: Mapping[str, str] = field(default_factory=dict)  # every path it depends on -> object id


def read_settings(tree: Tree) -> tuple[Settings, tuple[Finding, ...]]:
    """headgate.yml; without one, or with errors in it, the defaults."""
    if tree.object_id(SETTINGS) is None:
        return Settings(), ()
    data = read_text(tree, SETTINGS)
    if isinstance(data, Finding):
        return Settings(), (data,)
    parsed = parse(data, SETTINGS)
    if parsed.document is None:
        return Settings(), in_order(parsed.findings)
    read, found = settings.read_settings(parsed.document)
    return read, in_order(found)


def endpoint_names(tree: Tree) -> tuple[str, ...]:
    """The folders below endpoints/, by name."""
    return tuple(sorted({path.split("/")[1] for path in tree.files(ROOT) if path.count("/") > 1}))


def odd_name(path: str) -> Finding:
    """A name that is no text: nothing could be recorded under it."""
    why = "git keeps names as bytes; what is served is recorded, routed and shown by text"
    return Finding("name-bytes", "its name is not UTF-8", why, "rename it", Place(path))


def name_findings(names: tuple[str, ...]) -> tuple[Finding, ...]:
    """Endpoints whose names differ only in case: hosts and file systems do not tell them apart."""
    seen: dict[str, str] = {}
    found = []
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            place = Place(f"{ROOT}/{name}")
            why = "host names and some file systems do not tell them apart"
            found.append(Finding("name-case", f"`{name}` and `{other}` differ only in case", why, "rename one", place))
    return tuple(found)


def read_endpoint(
    tree: Tree, name: str, settings: Settings, pin: Pin | None = None, cache: dict[Any, Any] | None = None
) -> Reading:
    """What the commit asks of one endpoint.

    Args:
        pin: looks a registered model up; raises LookupError with what is known. None: models are not looked up, and
            the target's revisions are provisional.
        cache: kept by the caller between calls, also of other commits.
    """
    if cache is not None and len(cache) > CACHED:
        cache.clear()
    paths = Paths(tree, cache if cache is not None else {})
    return _Endpoint(tree, name, Assets(paths, settings, pin)).read()


def read_all(
    tree: Tree, settings: Settings, pin: Pin | None = None, cache: dict[Any, Any] | None = None
) -> dict[str, Reading]:
    """Every endpoint of a commit, by name."""
    shared = cache if cache is not None else {}
    names = endpoint_names(tree)
    readings = {name: read_endpoint(tree, name, settings, pin, shared) for name in names}
    for finding in name_findings(names):
        name = finding.place.file.split("/")[1]
        readings[name] = Reading(None, in_order((finding, *readings[name].findings)), readings[name].files)
    return readings


class _Endpoint:
    """One reading."""

    def __init__(self, tree: Tree, name: str, assets: Assets) -> None:
        self.tree = tree
        self.name = name
        self.folder = f"{ROOT}/{name}"
        self.assets = assets
        self.paths = assets.paths
        listing = tree.files(self.folder)
        self.listing = {path: size for path, size in listing.items() if is_text(path)}
        self.findings = assets.findings
        self.broken: set[str] = set()  # deployments that have findings of their own; traffic may name them
        odd = next((path for path in listing if not is_text(path)), "")
        if odd:
            self.findings.append(odd_name(odd))

    def read(self) -> Reading:
        endpoint = self._endpoint()
        written = self._deployments()
        process = self._process({d.name for d in written.values()} | self.broken)
        if endpoint is not None:
            self._check_traffic(endpoint, written)
        targets = {d.name: self._target(d, path, process) for path, d in written.items()}
        self.paths.depend(SETTINGS)
        findings = in_order(self.findings)
        files = dict(sorted(self.paths.files.items()))
        if endpoint is None or any(f.is_error for f in findings):
            return Reading(None, findings, files)
        return Reading(self._whole(endpoint, targets, process, files), findings, files)

    def _whole(
        self, e: spec.Endpoint, targets: Mapping[str, DeploymentTarget], process: Process, files: Mapping[str, str]
    ) -> Target:
        return Target(
            endpoint=self.name,
            commit=self.tree.commit,
            deployments=targets,
            traffic=per_mille({targets[name].revision: share for name, share in e.traffic.items() if share}),
            router=RouterSettings(
                auth_mode=e.auth_mode,
                issuer=self.assets.settings.oidc if e.auth_mode == "aad_token" else None,
                mirror={targets[n].revision: share * 10 for n, share in e.mirror_traffic.items() if share},
                repeatable=process.repeatable,
                sticky=process.sticky,
                redact=process.redact,
                websocket=process.websocket,
            ),
            process=process,
            files=files,
        )

    # Files

    def _endpoint(self) -> spec.Endpoint | None:
        paths = [p for p in (f"{self.folder}/endpoint{suffix}" for suffix in SUFFIXES) if p in self.listing]
        if len(paths) != 1:
            self._no_endpoint(paths)
            return None
        endpoint: spec.Endpoint | None = self._parsed(paths[0], "endpoint", spec.endpoint)
        if endpoint is None:
            return None
        if endpoint.name != self.name:
            self._say("name-mismatch", f"`name` is `{endpoint.name}`, the folder is `{self.name}`",
                      "an endpoint is found by its folder", f"write `name: {self.name}`, or rename the folder",
                      endpoint.document.place(("name",)))  # fmt: skip
        if endpoint.auth_mode == "aad_token" and self.assets.settings.oidc is None:
            place = endpoint.document.place(("auth_mode",))
            self._say("oidc-missing", "`aad_token` needs `oidc:` in headgate.yml", "it says whose tokens are taken",
                      "write `oidc:` with `issuer:` and `audience:`", place)  # fmt: skip
        return endpoint

    def _no_endpoint(self, paths: list[str]) -> None:
        place = Place(paths[1]) if paths else Place(self.folder)
        if paths:
            self._say("duplicate-name", "endpoint.yml and endpoint.yaml are both here", "only one can be meant",
                      "delete one", place)  # fmt: skip
        else:
            self._say("endpoint-missing", "there is no endpoint.yml", "a folder below endpoints/ is an endpoint",
                      "add endpoint.yml, or move the folder", place)  # fmt: skip

    def _deployments(self) -> dict[str, spec.Deployment]:
        """Path -> deployment, each name once."""
        base = f"{self.folder}/deployments/"
        paths = [p for p in self.listing if p.startswith(base) and p.endswith(SUFFIXES) and "/" not in p[len(base) :]]
        found: dict[str, spec.Deployment] = {}
        for path in sorted(paths):
            deployment: spec.Deployment | None = self._parsed(path, "deployment", spec.deployment)
            if deployment is None:
                self.broken.add(path[len(base) :].rpartition(".")[0])
            elif self._is_new(deployment, found):
                found[path] = deployment
        return found

    def _is_new(self, d: spec.Deployment, found: Mapping[str, spec.Deployment]) -> bool:
        if d.endpoint_name not in ("", self.name):
            self._say("name-mismatch", f"`endpoint_name` is `{d.endpoint_name}`, the folder is `{self.name}`",
                      "a deployment belongs to the endpoint of its folder",
                      f"write `endpoint_name: {self.name}`, or leave it out",
                      d.document.place(("endpoint_name",)))  # fmt: skip
        same = [other for other in found.values() if other.name.lower() == d.name.lower()]
        for other in same:
            first = other.document.place(("name",))
            self._say("duplicate-name", f"deployment `{d.name}` is here twice, first at {first}",
                      "a name stands for one deployment, whatever its case", "rename one",
                      d.document.place(("name",)))  # fmt: skip
        return not same

    def _process(self, deployments: Collection[str]) -> Process:
        process = self.assets.settings.process
        path = next((p for p in (f"{self.folder}/rollout{s}" for s in SUFFIXES) if p in self.listing), None)
        document: Document | None = self._parsed(path, "text", lambda d: (d, ())) if path else None
        own = document if document and isinstance(document.value, dict) and "gates" in document.value else None
        if document is not None:
            process, found = settings.read_process(document, process)
            self.findings += found
            if not found:
                self._check_websocket(document, deployments)
        process, missing = gateblocks.with_files(process, self.paths, self.folder if own else "", own)
        self.findings += missing
        return process

    def _parsed(self, path: str, kind: str, read: Any) -> Any:
        """A file as a value, read once per content; None: findings say why."""
        key = (kind, self.paths.depend(path), path)
        if key not in self.paths.cache:
            self.paths.cache[key] = self._read(path, kind, read)
        value, found = self.paths.cache[key]
        self.findings += found
        return value

    def _read(self, path: str, kind: str, read: Any) -> tuple[Any, tuple[Finding, ...]]:
        data = read_text(self.tree, path)
        if isinstance(data, Finding):
            return None, (data,)
        parsed = parse(data, path)
        if parsed.document is None:
            return None, parsed.findings
        if kind == "deployment" and conda.looks_like(parsed.document.value):
            return None, ()  # a conda file beside the deployments that use it
        value, found = read(parsed.document)
        return value, found

    # Rules across files

    def _check_traffic(self, e: spec.Endpoint, written: Mapping[str, spec.Deployment]) -> None:
        names = {d.name for d in written.values()} | self.broken
        for key, shares in (("traffic", e.traffic), ("mirror_traffic", e.mirror_traffic)):
            for name in shares.keys() - names:
                near = closest(name, names)
                fix = f"did you mean `{near}`?" if near else f"add deployments/{name}.yml, or take it out"
                self._say("traffic-unknown", f"`{key}` names `{name}`, which is no deployment",
                          "requests would have nowhere to go", fix, e.document.key_place((key, name)))  # fmt: skip
        total = sum(e.traffic.values())
        if total not in (0, 100):
            self._say("traffic-sum", f"traffic adds up to {total}, expected 100 (or 0: drained)", _lost(total),
                      _balance(e.traffic, total), e.document.key_place(("traffic",)))  # fmt: skip
        self._check_mirror(e)

    def _check_websocket(self, document: Document, names: Collection[str]) -> None:
        value = document.value if isinstance(document.value, dict) else {}
        for index, name in enumerate(value.get("websocket") or ()):
            if name not in names:
                near = closest(name, names)
                fix = f"did you mean `{near}`?" if near else "take it out"
                self._say("websocket-unknown", f"`websocket` names `{name}`, which is no deployment",
                          "the WebSocket requests meant by it would be refused", fix,
                          document.place(("websocket", index)))  # fmt: skip

    def _check_mirror(self, e: spec.Endpoint) -> None:
        mirrored = [name for name, share in e.mirror_traffic.items() if share]
        if len(mirrored) > 1:
            self._say("mirror-traffic", f"`mirror_traffic` names {len(mirrored)} deployments",
                      "copies go to one deployment, as in Azure", "keep one",
                      e.document.key_place(("mirror_traffic",)))  # fmt: skip
        for name in mirrored:
            if e.traffic.get(name):
                self._say("mirror-traffic", f"`{name}` has live traffic and mirror traffic",
                          "it would answer a request and get a copy of it", "take it out of one of the two",
                          e.document.key_place(("mirror_traffic", name)))  # fmt: skip

    # Deployments to targets

    def _target(self, d: spec.Deployment, path: str, process: Process) -> DeploymentTarget:
        base = path.rsplit("/", 1)[0]
        code, script = self.assets.code(d, base)
        source = Source(
            server="score",
            model=self.assets.model(d, base),
            code=code,
            scoring_script=script,
            environment=self.assets.environment(d, base),
            variables=self._variables(d),
            scoring_path="/score",
            instance_type=self._instance_type(d),
        )
        run = RunSettings(d.instance_count, d.liveness, d.readiness, d.max_concurrent_per_instance,
                          d.request_timeout_ms, d.max_queue_wait_ms, d.scaling)  # fmt: skip
        revision = revision_id(self.name, d.name, source)
        return DeploymentTarget(d.name, revision, source, run, self._smoke_request(base, process))

    def _variables(self, d: spec.Deployment) -> dict[str, str]:
        return {name: self._variable(d, name, value) for name, value in d.variables.items()}

    def _variable(self, d: spec.Deployment, name: str, value: Any) -> str:
        at = ("environment_variables", name)
        if not name or "=" in name or "\0" in name:
            self._say("bad-value", f"`{name[:60]}` is no name of a variable", "", "use letters, digits and `_`",
                      d.document.key_place(at))  # fmt: skip
        if isinstance(value, dict | list):
            self._say("bad-value", f"`environment_variables.{name}` is not text", "variables are text", "quote it",
                      d.document.place(at))  # fmt: skip
            return ""
        if isinstance(value, str) and "${{" in value and parse_reference(name, value) is None:
            self._say("secret-reference", f"`environment_variables.{name}` is no reference that can be followed",
                      "secrets of Azure are not here, and those of Headgate are nobody's",
                      "write `${{secretref:SECRET/KEY}}` for a Secret of the cluster; its name may not begin with "
                      "`headgate-`", d.document.place(at))  # fmt: skip
        if value is None:
            return ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _instance_type(self, d: spec.Deployment) -> str:
        asked, known = d.instance_type.lower(), self.assets.settings.instance_types
        if asked and known and asked not in known:
            near = closest(asked, known)
            entry = f"add `{d.instance_type}: {{cpus: 2, memory_gb: 4}}` to `instance_types:` there"
            listed = ", ".join(sorted(known)[:12])
            fix = f"did you mean `{near}`? Else {entry}" if near else f"use one of {listed}, or {entry}"
            self._say("instance-type", f"headgate.yml has no instance type `{d.instance_type}`",
                      "what it may use of the machine would be unknown", fix,
                      d.document.place(("instance_type",)))  # fmt: skip
        return asked

    def _smoke_request(self, base: str, process: Process) -> SourcePath | None:
        """The sample request beside the deployment, or in the endpoint's folder."""
        for folder in (base, self.folder):
            path = f"{folder}/{process.smoke_request}"
            if path in self.listing:
                object_id = self.paths.depend(path)
                if self.listing[path] > MAX_SAMPLE:
                    self._say("path-size",
                              f"the sample request has {self.listing[path]:,} bytes, more than {MAX_SAMPLE:,}",
                              "it is sent whole, once, before anything is live", "use a smaller one",
                              Place(path))  # fmt: skip
                return SourcePath(path, object_id) if object_id else None
        if process.smoke_request != Process().smoke_request:
            self._say("path-missing", f"there is no sample request `{process.smoke_request}`",
                      "smoke would have nothing to ask", "put it beside the deployment, or into the endpoint's folder",
                      Place(self.folder))  # fmt: skip
        return None

    def _say(self, code: str, message: str, why: str, fix: str, place: Place) -> None:
        self.findings.append(Finding(code, message, why, fix, place))


def _lost(total: int) -> str:
    if total > 100:
        return "no request can go to two deployments"
    return f"{100 - total} % of live requests would have no deployment to go to"


def _balance(traffic: Mapping[str, int], total: int) -> str:
    name, share = max(traffic.items(), key=lambda item: item[1])
    right = share + 100 - total
    if right < 0:
        return "lower the shares until they add up to 100"
    verb, rest = ("raise", "list the deployment that takes the other") if total < 100 else ("lower", "")
    return f"{verb} `{name}` to {right}" + (f", or {rest} {100 - total}" if rest else "")


# Gates, once it is known which there are


def check_gates(reading: Reading, tree: Tree, known: Mapping[str, Any]) -> tuple[Finding, ...]:
    """The gates a target names, against those installed: their names and parameters.

    Args:
        known: gate name -> the dataclass of its parameters.
    """
    if reading.target is None:
        return ()
    return gateblocks.check(reading.target.process, sorted(reading.files), tree, known)
