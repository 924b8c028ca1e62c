"""Which adapters there are, which were asked for, and whether they fit each other.

Looked at once, before anything starts: a pair that cannot work together is a finding, not a rollout that hangs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from headgate import plugins
from headgate.findings import Finding, FindingsError, Place
from headgate_controllers.options import BUILDER_VARIABLE, Options, build_variables
from headgate_kit.foreign import contained

log = logging.getLogger("headgate.controller")

GROUPS = (
    "gate",
    "platform",
    "engine",
    "server",
    "pipeline",
    "secrets",
    "builder",
    "source",
    "catalogue",
)  # each is `headgate.<group>`
FOLDER, IMAGE = "folder", "image"  # what a platform `runs`, what a builder `makes`
WORDS = {FOLDER: "folders of one machine", IMAGE: "images"}
BUILDER = "bundle"  # the builder when none is named


class Adapters:
    """Every adapter that is installed; those that cannot be loaded are logged and left out."""

    def __init__(self, loaded: Mapping[str, plugins.Loaded] | None = None) -> None:
        self._loaded = loaded or {group: plugins.load(f"headgate.{group}") for group in GROUPS}
        self.findings = tuple(finding for group in self._loaded.values() for finding in group.findings)
        for finding in self.findings:
            log.error("%s", finding)

    def all(self, group: str) -> Mapping[str, Any]:
        return self._loaded[group].adapters

    def gates(self) -> Mapping[str, Any]:
        """Ours as they are, those of others behind a process of their own."""
        return contained(self._loaded["gate"])

    def one(self, group: str, name: str) -> Any:
        """Raises FindingsError `no-adapter`."""
        known = self.all(group)
        if name not in known:
            raise FindingsError(_missing(group, name, known))
        return known[name]

    def check(self, options: Options) -> None:
        """Raises FindingsError: one asked for is not there, two of them do not fit, a build would be told a secret."""
        build_variables()
        wanted = {
            "platform": options.platform,
            "engine": options.engine,
            "secrets": options.secrets,
            "builder": os.environ.get(BUILDER_VARIABLE, BUILDER),
        }
        missing = [_missing(g, name, self.all(g)) for g, name in wanted.items() if name not in self.all(g)]
        if missing:
            raise FindingsError(*missing)
        found = {group: self.one(group, name) for group, name in wanted.items()}
        if misfits := list(_misfits(options, wanted, found)):
            raise FindingsError(*misfits)


def _misfits(options: Options, names: Mapping[str, str], found: Mapping[str, Any]) -> Iterator[Finding]:
    runs = getattr(found["platform"], "runs", FOLDER)
    makes = getattr(found["builder"], "makes", FOLDER)
    if runs != makes:
        yield _misfit(
            f"platform `{names['platform']}` wants {WORDS[runs]}, builder `{names['builder']}` makes {WORDS[makes]}",
            "what is built could never start",
            f"set {BUILDER_VARIABLE}=oci" if runs == IMAGE else f"leave {BUILDER_VARIABLE} out",
        )
    if getattr(found["engine"], "remote", False) and not options.control_url:
        yield _misfit(
            f"engine `{names['engine']}` runs ops in pods, and no --control-url says where they find us",
            "an op does its work by asking the control API; this machine's data folder is not in its pod",
            "give --control-url http://headgate-controller.NAMESPACE:7070",
        )


def _misfit(message: str, why: str, fix: str) -> Finding:
    return Finding("adapters-misfit", message, why, fix, Place("controller"))


def _missing(group: str, name: str, known: Mapping[str, Any]) -> Finding:
    return Finding(
        code="no-adapter",
        message=f"no {group} named {name} is installed; there are: {', '.join(sorted(known)) or 'none'}",
        why="the controller cannot start without it",
        fix=f"install the distribution that offers it (entry point group headgate.{group}), or name another",
        place=Place("controller"),
    )
