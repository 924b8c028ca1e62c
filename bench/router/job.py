"""The one job every router of the benchmark does, and the request it does it with."""

from __future__ import annotations

KEYS = ("bench-key-primary-0000000000000000", "bench-key-secondary-00000000000000")
SPLIT = 0.10  # to green
MIRROR = 0.10  # copied to shadow
CONNECTIONS = 32
RATE = 500  # requests a second, away from saturation
STREAMS = 64
BODY = b'{"data": "' + b"a" * 1000 + b'"}'
HEADERS = {"authorization": f"Bearer {KEYS[0]}", "content-type": "application/json"}
JOB = "key check, 90/10 split, override by header, request id, 10 % mirror, no access log; 1 KB POST, 32 connections"


def request(path: str, port: int) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{fields}content-length: {len(BODY)}\r\n\r\n"
    return head.encode() + BODY
