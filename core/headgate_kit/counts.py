"""What a process counts of itself wherever it happens; its /metrics shows them. Nothing is decided by these."""

from __future__ import annotations

from prometheus_client import Counter

CLUSTER_REQUESTS = Counter(
    "headgate_cluster_requests", "Requests to the Kubernetes API server", ["verb", "resource", "scope"], registry=None
)
