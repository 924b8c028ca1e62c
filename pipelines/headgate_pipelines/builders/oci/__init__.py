"""Images of revisions, made by adding layers to a base image and pushed to a registry. No privileges, no daemon.

layers.py        files as a deterministic layer
builder.py       the `Builder`; it speaks to registries by `headgate_kit.oci`
"""

from headgate_pipelines.builders.oci.builder import OciBuilder

__all__ = ["OciBuilder"]
