"""What of a message's head goes on, what stays here, and what we add: both directions.

Framing is never copied: a message is parsed, then framed anew (RFC 9112, 6.3 and 11.2). Fields that belong to one
connection, and those a peer names in `Connection`, end here (RFC 9110, 7.6.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Field = tuple[bytes, bytes]

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade".split()
)
# Read by us, or said by us to the model: never passed on as the caller wrote them.
_OURS_OF_REQUEST = HOP_BY_HOP | frozenset(
    b"host authorization content-length expect x-ms-request-id headgate-mirror headgate-revision "
    b"headgate-generation".split()
)
_READ_AND_PASSED = frozenset(b"azureml-model-deployment x-ms-client-request-id".split())
_NOTED = _OURS_OF_REQUEST | _READ_AND_PASSED
# Said by us to the caller, or by our server (date).
_OURS_OF_ANSWER = HOP_BY_HOP | frozenset(
    b"date x-ms-request-id x-ms-client-request-id azureml-model-deployment headgate-revision headgate-generation "
    b"ms-azureml-model-time ms-azureml-model-error-statuscode ms-azureml-model-error-reason".split()
)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")
_CLIENT_ID = re.compile(rb"[\x21-\x7e]{1,256}\Z")
MAX_REASON = 200  # bytes of the model's reason phrase that go into a header


class Asked:
    """What the router itself reads of a request's head, and the fields that go on to the model."""

    __slots__ = (
        "_lines",
        "admitted",
        "ambiguous",
        "authorization",
        "client_id",
        "coded",
        "continues",
        "hosts",
        "length",
        "model_path",
        "overrides",
        "passed",
        "request_id",
        "start_line",
        "websocket",
    )

    def __init__(self) -> None:
        self.authorization: list[bytes] = []
        self.overrides: list[bytes] = []
        self.request_id = b""  # empty: none, or not a valid one
        self.client_id = b""
        self.length: int | None = None  # as declared; None: chunked or no body
        self.passed: list[Field] = []
        self.hosts = 0
        self.coded = False  # Transfer-Encoding is there
        self.continues = False  # the body is sent after a 100
        self.websocket = False  # an upgrade is asked for
        self._lines: bytes | None = None
        self.admitted: object | None = None  # the door that let these fields in, and always will
        self.start_line = b""  # to the model, where its path is `model_path`; empty: not made yet
        self.model_path = b""
        self.ambiguous = False  # two readers could read two things (RFC 9112, 3.2 and 6.1): never passed on

    def lines(self) -> bytes | None:
        """The fields that go on, each with its line end; None: one of them would be read as two."""
        if self._lines is None:
            passed = self.passed
            found = lines(passed)
            if found.count(b"\n") != len(passed) or found.count(b"\r") != len(passed):
                return None
            self._lines = found
        return self._lines


def lines(fields: Iterable[Field]) -> bytes:
    """Fields as they go out."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def read(fields: Iterable[Field]) -> Asked:
    """One pass over the lower-cased fields of a request."""
    asked = Asked()
    passed = asked.passed
    named: list[bytes] = []
    for field in fields:
        name = field[0]
        if name not in _NOTED:
            passed.append(field)
            continue
        _note(asked, field, named)
    asked.ambiguous |= asked.hosts > 1
    if asked.websocket:
        asked.websocket = any(b"upgrade" in value.lower() for value in named)
    dropped = _names_in(named)
    if dropped:
        asked.passed = [field for field in passed if field[0] not in dropped]
    return asked


def _note(asked: Asked, field: Field, named: list[bytes]) -> None:
    name, value = field
    if name in _READ_AND_PASSED:
        asked.passed.append(field)
    if name == b"authorization":
        asked.authorization.append(value)
    elif name == b"azureml-model-deployment":
        asked.overrides.append(value)
    elif name == b"content-length":
        digits = value.rstrip(b" \t")  # the parser has seen that there is nothing else
        asked.length = int(digits) if digits.isdigit() and len(digits) < 20 else None
    elif name == b"x-ms-request-id":
        asked.request_id = value if _REQUEST_ID.match(value) else b""
    elif name == b"x-ms-client-request-id":
        asked.client_id = value if _CLIENT_ID.match(value) else b""
    elif name == b"connection":
        named.append(value)
    elif name == b"host":
        asked.hosts += 1
    elif name == b"expect":
        asked.continues = value.lower() == b"100-continue"
    elif name == b"upgrade":
        asked.websocket = value.strip().lower() == b"websocket"
    elif name == b"transfer-encoding":
        asked.ambiguous |= asked.coded or value.strip().lower() != b"chunked"  # no other coding is undone here
        asked.coded = True


def framing(method: bytes, held: int, length: int | None, *, more: bool) -> bytes:
    """The field that frames a request to a model: `held` bytes, or `more` than that, of a declared length or not."""
    if more:
        return b"transfer-encoding: chunked\r\n" if length is None else b"content-length: %d\r\n" % length
    if not held and method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE"):
        return b""
    return b"content-length: %d\r\n" % held


def chunk(data: bytes) -> bytes:
    """`data`, not empty, as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def of_answer(fields: Iterable[Field]) -> list[Field]:
    """The model's fields that go on to the caller; its Content-Length stays, for the length is what we pass."""
    kept: list[Field] = []
    named: list[bytes] = []
    for field in fields:
        if field[0] not in _OURS_OF_ANSWER:
            kept.append(field)
        elif field[0] == b"connection":
            named.append(field[1])
    dropped = _names_in(named)
    return [field for field in kept if field[0] not in dropped] if dropped else kept


def _names_in(values: list[bytes]) -> set[bytes]:
    """Field names listed in `Connection` values, less those that are dropped anyway."""
    if not values or (len(values) == 1 and values[0].lower() in (b"keep-alive", b"close")):
        return set()
    names = {name.strip().lower() for value in values for name in value.split(b",")}
    return names - HOP_BY_HOP - {b"close", b"content-length", b""}


def find(fields: Iterable[Field], wanted: bytes) -> bytes:
    """The first value of a field; empty when it is not there."""
    for name, value in fields:
        if name == wanted:
            return value
    return b""


def cookie(fields: Iterable[Field], wanted: bytes) -> bytes:
    """A cookie's value; empty when it is not there."""
    for name, value in fields:
        if name == b"cookie":
            for part in value.split(b";"):
                key, _, content = part.strip().partition(b"=")
                if key == wanted:
                    return content
    return b""


def one_line(reason: bytes) -> bytes:
    """A model's reason phrase as a header value: printable ASCII, bounded."""
    return bytes(c if 0x20 <= c < 0x7F else 0x3F for c in reason[:MAX_REASON])
