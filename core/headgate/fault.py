"""Faults of the installation: what keeps a revision from being tried and says nothing about it. The one list of them.

A rollout that meets one is held, with a finding, until it is mended, a newer commit comes or the op's time is up; no
commit is reverted for it. What is not in this list counts against the revision: that it does not start, does not
answer, or asks for what the cluster does not give (a node, a quota, an admission rule, a Secret that it names).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headgate.findings import Finding, Place

CODE = "installation-fault"


class Fault(StrEnum):
    CERTIFICATES = "certificates"  # of mutual TLS: the controller's own, or a replica's
    UNREACHABLE = "unreachable"  # a replica that is ready, and to which the controller gets no connection
    IMAGE = "image"  # a revision's image, which Headgate pushed, cannot be pulled
    CATALOGUE = "catalogue"  # the store of a model is away, refuses its credentials, or cannot be used as declared
    RIGHTS = "rights"  # the controller may not write an object of a revision
    WEBHOOK = "webhook"  # the cluster asks somebody who does not answer whether a pod may be
    BUILDER = "builder"  # what builds makes is not what the platform runs


FIX = {
    Fault.CERTIFICATES: "mend the Secrets of `models.tls`: docs/cluster.md#tls-between-routers-and-models",
    Fault.UNREACHABLE: "let the controller reach model pods at port 8080: network policies, a mesh, a node's network",
    Fault.IMAGE: "see that the registry answers, still has the image, and takes the credentials in `imagePullSecrets`",
    Fault.CATALOGUE: "see that the catalogue's store answers and takes its credentials: docs/models.md",
    Fault.RIGHTS: "give the controller the rights of the chart's Role: docs/cluster.md has the table",
    Fault.WEBHOOK: "mend the admission webhook, or take its configuration away",
    Fault.BUILDER: "set HEADGATE_BUILDER=oci where replicas are pods, or leave it out",
}


@dataclass(frozen=True, slots=True)
class Held:
    """What an op waits for, in the words of whoever met it."""

    fault: Fault
    said: str


def finding(endpoint: str, op: str, held: Held) -> Finding:
    return Finding(
        code=CODE,
        message=f"{op} waits: {held.said.partition(chr(10))[0]}",
        why=f"a fault of the installation ({held.fault}) says nothing about the commit, so none is reverted for it",
        fix=f"{FIX[held.fault]}; the rollout goes on by itself",
        place=Place(f"endpoints/{endpoint}"),
    )
