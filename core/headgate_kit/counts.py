"""What a process counts of itself wherever it happens; its /metrics shows them. Nothing is decided by these."""

from __future__ import annotations

from prometheus_client import Counter

CLUSTER_REQUESTS = Counter(
    "headgate_cluster_requests", "Requests to the Kubernetes API server", ["verb", "resource", "scope"], registry=None
)
CLUSTER_REFUSED = Counter(
    "headgate_cluster_refused",
    "Requests that the Kubernetes API server refused because a right is missing",
    ["verb", "resource", "scope"],
    registry=None,
)
