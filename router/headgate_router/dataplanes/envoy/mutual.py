"""How Envoy meets models that ask for mutual TLS: what its clusters say of it, and the files that it is told keys by.

The keys themselves are read by Envoy, and again when a file in their folder is renamed, as mounted Secrets are swapped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headgate_kit.identity import AUTHORITY, CHAIN, KEY, NAME

Resource = dict[str, Any]

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_OURS, _THEIRS = "models", "models-authority"  # names of Envoy's secrets; each is in a file of its own
HOST: Resource = {"filter_metadata": {"envoy.transport_socket_match": {"tls": "yes"}}}  # of one that asks for it


def tell(secrets: Path, folder: Path) -> None:
    """Writes what Envoy is told keys by.

    Args:
        secrets: Envoy's own folder.
        folder: with `tls.crt`, `tls.key` and `ca.crt`.
    """
    watched = {"watched_directory": {"path": str(folder)}}
    pair = {"certificate_chain": _file(folder / CHAIN), "private_key": _file(folder / KEY), **watched}
    theirs = {
        "trusted_ca": {**_file(folder / AUTHORITY), **watched},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": NAME}}],
    }
    for name, secret in ((_OURS, {"tls_certificate": pair}), (_THEIRS, {"validation_context": theirs})):
        resource = {"@type": f"{_TLS}.Secret", "name": name, **secret}
        (secrets / f"{name}.json").write_text(json.dumps({"resources": [resource]}))


def matches(secrets: str) -> list[Resource]:
    """Of a cluster: hosts marked as HOST are met by TLS, all others in plain HTTP."""
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [_secret(secrets, _OURS)],
        "validation_context_sds_secret_config": _secret(secrets, _THEIRS),
    }
    context = {"@type": f"{_TLS}.UpstreamTlsContext", "sni": NAME, "common_tls_context": common}
    socket = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    return [{"name": "tls", "match": {"tls": "yes"}, "transport_socket": socket}]


def _secret(secrets: str, name: str) -> Resource:
    path = {"path_config_source": {"path": f"{secrets}/{name}.json"}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": path}


def _file(path: Path) -> Resource:
    return {"filename": str(path)}
