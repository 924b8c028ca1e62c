"""The platform of a Kubernetes cluster: a revision is a Deployment, its replicas are pods.

`render.py` says what a revision is made of (pure), `pods.py` what a pod's status means (pure), `hand.py` makes it so on
a thread of its own, `platform.py` is the port. Nothing here is asked of the API server to read: two watches are kept.
"""

from headgate_controllers.platforms.kubernetes.platform import KubernetesPlatform

__all__ = ["KubernetesPlatform"]
