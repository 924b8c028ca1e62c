"""Messages whose framing two readers may understand in two ways, by what RFC 9112 says of them. Data, no test.

`REFUSED`, `TAKEN` and `EITHER` follow `HEAD`; `STARTS` are whole. `INNER` is what must never be read as a request: it
stands where a reader that was led astray would look for the next one. `LAST` is a request that follows.
"""

from __future__ import annotations

START = b"POST /endpoints/e/score HTTP/1.1\r\n"
OWN = b"host: here\r\nauthorization: Bearer the-key\r\n"
HEAD = START + OWN
INNER = b"GET /endpoints/e/inner HTTP/1.1\r\nhost: here\r\nauthorization: Bearer the-key\r\n\r\n"
LAST = b"GET /endpoints/e/last HTTP/1.1\r\nhost: here\r\nauthorization: Bearer the-key\r\nconnection: close\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
KEY = b"authorization: Bearer the-key\r\n"
INNER_BY_LENGTH = b"content-length: %d\r\n\r\n%b" % (len(INNER), INNER)
INNER_BY_CHUNK = CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER)

# What is refused whatever follows: it is against the grammar, or says two things.
REFUSED = {
    # 6.3: lengths
    "two lengths": b"content-length: 4\r\ncontent-length: 5\r\n\r\nabcd",
    "one length twice": b"content-length: 4\r\ncontent-length: 4\r\n\r\nabcd",
    "a list of lengths": b"content-length: 4, 4\r\n\r\nabcd",
    "a signed length": b"content-length: +4\r\n\r\nabcd",
    "a negative length": b"content-length: -1\r\n\r\n",
    "a hexadecimal length": b"content-length: 0x4\r\n\r\nabcd",
    "a length of two words": b"content-length: 4 4\r\n\r\nabcd",
    "a length and a word": b"content-length: 4;\r\n\r\nabcd",
    "a length with a point": b"content-length: 4.0\r\n\r\nabcd",
    "an empty length": b"content-length:\r\n\r\n" + INNER,
    "a length past 64 bits": b"content-length: 18446744073709551617\r\n\r\na",
    # 6.1, 6.3: a length and a coding, codings
    "length and chunks": b"content-length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + INNER,
    "chunks and length": CHUNKED + b"content-length: 60\r\n\r\n0\r\n\r\n" + INNER,
    "a length and another coding": b"content-length: 4\r\ntransfer-encoding: identity\r\n\r\nabcd",
    "a length and a coding in words": b"content-length: 4\r\ntransfer-encoding: xchunked\r\n\r\nabcd",
    "chunked is not last": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + INNER,
    "another coding first": b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "another coding alone": b"transfer-encoding: gzip\r\n\r\n" + INNER,
    "no coding we know": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding in quotes": b'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "a coding with a parameter": b"transfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "no coding": b"transfer-encoding:\r\n\r\n0\r\n\r\n" + INNER,
    "chunked twice": b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two fields": CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
    "a coding and a NUL": b"transfer-encoding: chunked\x00\r\n\r\n0\r\n\r\n",
    "a coding and a vertical tab": b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a coding and a form feed": b"transfer-encoding: chunked\x0c\r\n\r\n0\r\n\r\n",
    # 5: fields
    "space before the colon": b"transfer-encoding : chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
    "tab before the colon": b"content-length\t: 4\r\n\r\nabcd",
    "a NUL before the colon": b"content-length\x00: 4\r\n\r\nabcd",
    "a vertical tab before the colon": b"transfer-encoding\x0b: chunked\r\n\r\n0\r\n\r\n",
    "no name": b": chunked\r\n\r\n",
    "no colon": b"content-length 4\r\n\r\nabcd",
    "a name with a space": b"x y: 1\r\n\r\n",
    "a name in brackets": b"(x): 1\r\n\r\n",
    "a name past ASCII": b"x\xff: 1\r\n\r\n",
    "folded": b"x: a\r\n b: c\r\n\r\n",
    "folded by a tab": b"x: a\r\n\tb: c\r\n\r\n",
    "a folded coding": b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a folded length": b"content-length:\r\n 4\r\n\r\nabcd",
    "a control character in a value": b"x: a\x01b\r\n\r\n",
    "a NUL in a value": b"x: a\x00b\r\n\r\n",
    # 2.2: line ends
    "a bare LF": b"x: a\ncontent-length: 4\r\n\r\nabcd",
    "LF LF ends the head": b"content-length: 0\n\n" + INNER,
    "CR LF LF ends the head": b"content-length: 0\r\n\n" + INNER,
    "a bare CR in a value": b"x: a\rcontent-length: 4\r\n\r\nabcd",
    "a bare CR as line end": b"x: a\r\rcontent-length: 4\r\n\r\nabcd",
    "a bare CR before the end": b"x: a\r\r\n\r\n",
    # 3.2: hosts
    "two hosts": b"host: there\r\n\r\n",
    "the host twice": b"host: here\r\n\r\n",
    # 7.1: chunks
    "a chunk size in words": CHUNKED + b"\r\nfour\r\nabcd\r\n0\r\n\r\n",
    "a chunk size past 64 bits": CHUNKED + b"\r\n10000000000000004\r\nabcd\r\n0\r\n\r\n",
    "a signed chunk size": CHUNKED + b"\r\n+4\r\nabcd\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"\r\n-4\r\nabcd\r\n0\r\n\r\n",
    "a chunk size 0x4": CHUNKED + b"\r\n0x4\r\nabcd\r\n0\r\n\r\n",
    "a chunk size and a space": CHUNKED + b"\r\n4 \r\nabcd\r\n0\r\n\r\n",
    "a chunk size and a tab": CHUNKED + b"\r\n4\t\r\nabcd\r\n0\r\n\r\n",
    "a space and a chunk size": CHUNKED + b"\r\n 4\r\nabcd\r\n0\r\n\r\n",
    "two chunk sizes": CHUNKED + b"\r\n4 5\r\nabcd\r\n0\r\n\r\n",
    "a chunk size with an underscore": CHUNKED + b"\r\n0_4\r\nabcd\r\n0\r\n\r\n",
    "an empty chunk size": CHUNKED + b"\r\n\r\nabcd\r\n0\r\n\r\n",
    "a chunk size ended by LF": CHUNKED + b"\r\n4\nabcd\r\n0\r\n\r\n",
    "a chunk size ended by CR": CHUNKED + b"\r\n4\rabcd\r\n0\r\n\r\n",
    "a last chunk ended by LF": CHUNKED + b"\r\n0\n\n" + INNER,
    "a chunk longer than its size": CHUNKED + b"\r\n2\r\nabcd\r\n0\r\n\r\n",
    "a chunk without its line end": CHUNKED + b"\r\n4\r\nabcd0\r\n\r\n",
    "a chunk ended by LF": CHUNKED + b"\r\n4\r\nabcd\n0\r\n\r\n",
    "a chunk ended by two letters": CHUNKED + b"\r\n4\r\nabcdXX0\r\n\r\n",
    "an extension ended by LF": CHUNKED + b"\r\n4;a\nabcd\r\n0\r\n\r\n",
    "an extension with a bare CR": CHUNKED + b"\r\n4;a\rb\r\nabcd\r\n0\r\n\r\n",
    "an extension with a NUL": CHUNKED + b"\r\n4;a\x00\r\nabcd\r\n0\r\n\r\n",
    "an extension whose quotes hold a line end": CHUNKED + b'\r\n4;a="\r\nabcd\r\n0\r\n\r\n"\r\nabcd\r\n0\r\n\r\n',
    # 7.1.2: trailers
    "a folded trailer": CHUNKED + b"\r\n0\r\nx: a\r\n b\r\n\r\n",
    "a length as trailer": CHUNKED + b"\r\n0\r\ncontent-length: 60\r\n\r\n",
    "a trailer without a colon": CHUNKED + b"\r\n0\r\nx\r\n\r\n",
    "a trailer ended by LF": CHUNKED + b"\r\n0\r\nx: a\n\r\n",
}

# What is one good message, odd as it looks.
TAKEN = {
    "capital Chunked": (b"Transfer-Encoding: Chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", b"abcd"),
    "a length between spaces": (b"content-length:   4  \r\n\r\nabcd", b"abcd"),
    "a length with zeros": (b"content-length: 0004\r\n\r\nabcd", b"abcd"),
    "a coding that is another field": (b"transfer_encoding: chunked\r\ncontent-length: 4\r\n\r\nabcd", b"abcd"),
    "a length named in Connection": (b"connection: content-length\r\ncontent-length: 4\r\n\r\nabcd", b"abcd"),
    "a coding named in Connection": (
        b"connection: transfer-encoding\r\n" + CHUNKED + b"\r\n4\r\nabcd\r\n0\r\n\r\n",
        b"abcd",
    ),
    "zeros before a chunk size": (CHUNKED + b"\r\n0000004\r\nabcd\r\n000\r\n\r\n", b"abcd"),
    "capital chunk size": (CHUNKED + b"\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "chunk extensions": (CHUNKED + b'\r\n4;a=b;c="d"\r\nabcd\r\n0;z\r\n\r\n', b"abcd"),
    "ends of messages inside a chunk": (CHUNKED + b"\r\na\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n0\r\n\r\n"),
    "a request inside a chunk": (INNER_BY_CHUNK, INNER),
    "a request inside a length": (INNER_BY_LENGTH, INNER),
    "a request in a value": (b"x: GET /endpoints/e/inner HTTP/1.1\r\ncontent-length: 0\r\n\r\n", b""),
    "letters past ASCII in a value": (b"x: \xc3\xa9\xff\r\n\r\n", b""),
    "trailers": (CHUNKED + b"\r\n1\r\na\r\n0\r\nauthorization: x\r\nhost: y\r\nx: z\r\n\r\n", b"a"),
    "expects to be told to go on": (b"expect: 100-continue\r\ncontent-length: 4\r\n\r\nabcd", b"abcd"),
    "no body": (b"\r\n", b""),
}

# What a reader may refuse or take, as one: the RFC allows both, or does not say.
EITHER = {
    "a length between tabs": b"content-length:\t4\t\r\n\r\nabcd",
    "a coding between tabs": b"transfer-encoding: \t chunked \t\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    "an empty element before chunked": b"transfer-encoding: , chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    "an empty element after chunked": b"transfer-encoding: chunked,\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    "a space before an extension": CHUNKED + b"\r\n4 ;a=b\r\nabcd\r\n0\r\n\r\n",
    "an extension without a name": CHUNKED + b"\r\n4;;\r\nabcd\r\n0\r\n\r\n",
    "an extension of a request": CHUNKED + b"\r\n4;GET /endpoints/e/inner HTTP/1.1\r\nabcd\r\n0\r\n\r\n",
    "a request as trailer": CHUNKED + b"\r\n0\r\nGET http://e/endpoints/e/inner HTTP/1.1: x\r\n\r\n",
    "a coding as trailer": CHUNKED + b"\r\n0\r\ntransfer-encoding: chunked\r\n\r\n",
    "the host named in Connection": b"connection: host\r\ncontent-length: 4\r\n\r\nabcd",
    "an expectation that nobody knows": b"expect: 200-ok\r\ncontent-length: 4\r\n\r\nabcd",
    "an upgrade with a body": b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: %d\r\n\r\n%b"
    % (len(INNER), INNER),
    "an upgrade with chunks": b"connection: upgrade\r\nupgrade: h2c\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "a WebSocket with a body": (
        b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + INNER_BY_LENGTH
    ),
    "a length of one that was renamed": b"content_length: 60\r\n\r\n",
    "a DEL in a value": b"x: a\x7fb\r\n\r\n",
}

# Start lines, whole: what may be read of them is one request at most, and never `inner`.
STARTS = {
    "empty lines first": b"\r\n\r\n" + START + OWN + b"\r\n",
    "bare LFs first": b"\n\n" + START + OWN + b"\r\n",
    "space before the method": b" " + START + OWN + b"\r\n",
    "space before the first field": START + b" x: a\r\n" + OWN + b"\r\n",
    "two spaces after the method": b"POST  /endpoints/e/score HTTP/1.1\r\n" + OWN + b"\r\n",
    "tabs between the words": b"POST\t/endpoints/e/score\tHTTP/1.1\r\n" + OWN + b"\r\n",
    "a space after the version": b"POST /endpoints/e/score HTTP/1.1 \r\n" + OWN + b"\r\n",
    "a bare CR in the start line": b"POST /endpoints/e/score\rHTTP/1.1\r\n" + OWN + b"\r\n",
    "a start line ended by LF": b"POST /endpoints/e/score HTTP/1.1\n" + OWN + b"\r\n",
    "a line end in the target": b"POST /endpoints/e/score\r\nx: HTTP/1.1\r\n" + OWN + b"\r\n",
    "a version in small letters": b"POST /endpoints/e/score http/1.1\r\n" + OWN + b"\r\n",
    "version 1.10": b"POST /endpoints/e/score HTTP/1.10\r\n" + OWN + b"\r\n",
    "version 1.2": b"POST /endpoints/e/score HTTP/1.2\r\n" + OWN + b"\r\n",
    "version 0.9": b"GET /endpoints/e/score\r\n" + OWN + b"\r\n",
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "absolute form": b"POST http://here/endpoints/e/score HTTP/1.1\r\n" + OWN + b"\r\n",
    "absolute form of another host": b"POST http://there/endpoints/e/score HTTP/1.1\r\n" + OWN + b"\r\n",
    "absolute form, its host unsaid": b"POST http://here/endpoints/e/score HTTP/1.1\r\n" + KEY + b"\r\n",
    "absolute form with a user": b"POST http://a@b@here/endpoints/e/score HTTP/1.1\r\n" + OWN + b"\r\n",
    "asterisk form": b"OPTIONS * HTTP/1.1\r\n" + OWN + b"\r\n",
    "authority form": b"CONNECT here:80 HTTP/1.1\r\n" + OWN + b"\r\n",
    "no host": START + b"authorization: Bearer the-key\r\n\r\n",
    "an empty host": START + b"host:\r\nauthorization: Bearer the-key\r\n\r\n",
    "a host with a path": START + b"host: here/endpoints/e/inner\r\nauthorization: Bearer the-key\r\n\r\n",
    "a host with a space": START + b"host: here there\r\nauthorization: Bearer the-key\r\n\r\n",
    "two hosts in one": START + b"host: here, there\r\nauthorization: Bearer the-key\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /endpoints/e/score HTTP/1.0\r\n" + OWN + CHUNKED + b"\r\n0\r\n\r\n",
    "length and chunks in HTTP/1.0": (
        b"POST /endpoints/e/score HTTP/1.0\r\n" + OWN + b"content-length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n"
    ),
    "kept alive in HTTP/1.0": (
        b"POST /endpoints/e/score HTTP/1.0\r\n" + OWN + b"connection: keep-alive\r\ncontent-length: 4\r\n\r\nabcd"
    ),
    "an expectation in HTTP/1.0": (
        b"POST /endpoints/e/score HTTP/1.0\r\n" + OWN + b"expect: 100-continue\r\ncontent-length: 4\r\n\r\nabcd"
    ),
    "a body of a GET": b"GET /endpoints/e/score HTTP/1.1\r\n" + OWN + INNER_BY_LENGTH,
    "chunks of a GET": b"GET /endpoints/e/score HTTP/1.1\r\n" + OWN + INNER_BY_CHUNK,
    "a body of a HEAD": b"HEAD /endpoints/e/score HTTP/1.1\r\n" + OWN + INNER_BY_LENGTH,
    "a method that nobody knows": b"SMUGGLE /endpoints/e/score HTTP/1.1\r\n" + OWN + b"content-length: 4\r\n\r\nabcd",
    "a method in small letters": b"post /endpoints/e/score HTTP/1.1\r\n" + OWN + b"content-length: 4\r\n\r\nabcd",
    "a target with an encoded request": (
        b"POST /endpoints/e/score%20HTTP/1.1%0d%0a%0d%0aGET%20/endpoints/e/inner HTTP/1.1\r\n" + OWN + b"\r\n"
    ),
    "a letter and a LF for a CR": b"POST /endpoints/e/score HTTP/1.1\xc4\x8d\xc4\x8ax: a\r\n" + OWN + b"\r\n",
}  # fmt: skip

TWO_BY_LF = {"LF LF ends the head", "CR LF LF ends the head", "a last chunk ended by LF"}

# Everything, whole.
EVERY = {
    **{name: HEAD + raw for name, raw in {**REFUSED, **EITHER}.items()},
    **{name: HEAD + raw for name, (raw, _) in TAKEN.items()},
    **STARTS,
}
