"""A Kubernetes cluster: objects as plain JSON, kept up to date by watches. The one door for controllers and ops."""

from headgate_kit.kube.cache import Cache
from headgate_kit.kube.client import Cluster, Event, Forbidden, Gone, Watch
from headgate_kit.kube.kinds import Kind

__all__ = ["Cache", "Cluster", "Event", "Forbidden", "Gone", "Kind", "Watch"]
