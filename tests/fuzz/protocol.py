"""Coverage-guided fuzz of the data path, both directions: the second half of `make fuzz`.

An input is what a caller says, what its model answers, and where both are cut; beside it another caller asks, and must
get its own answer and nothing else. The rest of the command line is libFuzzer's: `-max_total_time=600 FOLDER`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent
CORPUS = Path(__file__).parent / "corpus"  # made of `seeds`, kept between runs, not in git
BETWEEN = b"\xff\xfe\xfd"  # what the caller says, then what the model does
SECRET = b"only-for-the-neighbour"

sys.path[:0] = [str(TESTS), str(TESTS / "property")]

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["headgate_router"]) if atheris else nullcontext():
    import test_protocol as played  # its wires, in place of sockets

    import framings


def one(data: bytes) -> None:
    cut, rest = data[:8], data[8:]
    said, _, answer = rest.partition(BETWEEN)
    cuts = [byte * 7 for byte in cut]
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        errors: list[Any] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        system = played.System(loop, [])
        models = [system.model() for _ in range(3)]
        _, neighbour = system.caller()
        asking = played.request(b"mine", b"content-length: %d" % len(SECRET), body=SECRET)
        played.deliver(neighbour, [asking])
        (busy,) = [model for model in models if model.said]
        _, wire = system.caller()
        played.deliver(wire, played.pieces(said, cuts[:4]))
        for model in models:
            if model.said and model is not busy:
                played.deliver(model, played.pieces(answer, cuts[4:]))
        if not busy.closed:
            played.deliver(busy, [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(SECRET), SECRET)])
        told = bytes(neighbour.said)
        assert told.startswith(b"HTTP/1.1 200 OK\r\n"), told
        assert told.endswith(b"\r\n\r\n" + SECRET), told
        for other in (wire, *[model for model in models if model is not busy]):
            assert SECRET in said or SECRET in answer or SECRET not in other.said, "one caller's bytes in another's"
        played.settle(loop, system, [wire, neighbour])
        assert errors == [], errors


def seeds() -> Iterator[bytes]:
    """Our traps and words, as inputs."""
    answers = [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", *played.ANSWERS]
    heads = [text.replace(b"the-key", b"k") + framings.LAST for text in framings.EVERY.values()]
    for number, said in enumerate([*heads, *played.WORDS]):
        yield bytes([0, number % 251, 3, 9, 0, 1, 5, 30]) + said + BETWEEN + answers[number % len(answers)]


def main() -> None:
    if atheris is None:
        why = "not run: coverage-guided fuzz needs atheris: uv pip install -e '.[fuzz]', where it has a wheel"
        print(why, file=sys.stderr)
        return
    CORPUS.mkdir(exist_ok=True)
    for number, content in enumerate(seeds()):
        (CORPUS / f"seed-{number:03}").write_bytes(content)
    argv = [sys.argv[0], *sys.argv[1:], "-timeout=10", "-rss_limit_mb=2048", str(CORPUS)]
    atheris.Setup(argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
