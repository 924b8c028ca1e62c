"""Image registries: builds push to them, catalogues read from them.

registry.py      one registry over HTTP: manifests, blobs, uploads that carry on
credentials.py   a docker config.json, and what a registry asks for
image.py         references, manifests and configurations as values (pure)
"""
