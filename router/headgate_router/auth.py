"""Who may call: bearer keys, held as digests only.

The router never holds a key, never logs one, never passes one on to a model.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

_SCHEME = b"bearer "
MAX_CREDENTIAL = 8192  # bytes; longer is refused unhashed


def accepts(digests: Sequence[bytes], authorization: Sequence[bytes]) -> bool:
    """Whether the values of a request's Authorization fields hold one accepted key.

    Args:
        digests: sha256 of each accepted key, as lower-case hex digits.
        authorization: the field's values; more than one is refused, whatever they hold: proxies disagree on which
            counts.
    Every digest is compared, in constant time, whether or not an earlier one matched.
    """
    if len(authorization) != 1:
        return False
    value = authorization[0]
    if len(value) > MAX_CREDENTIAL or value[: len(_SCHEME)].lower() != _SCHEME:
        return False
    given = hashlib.sha256(value[len(_SCHEME) :].strip()).hexdigest().encode()
    found = False
    for digest in digests:
        found |= hmac.compare_digest(given, digest)
    return found
