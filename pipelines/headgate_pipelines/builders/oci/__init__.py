"""Images of revisions, made by adding layers to a base image and pushed to a registry. No privileges, no daemon.

registry.py      one registry over HTTP: manifests, blobs, uploads that carry on
credentials.py   a docker config.json, and what a registry asks for
layers.py        files as a deterministic layer
image.py         manifests and configurations as values (pure)
builder.py       the `Builder`
"""

from headgate_pipelines.builders.oci.builder import OciBuilder

__all__ = ["OciBuilder"]
