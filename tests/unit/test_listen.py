"""The listening socket is handed from process to process, and only to the same user."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from headgate_kit import listen


def connects(sock: socket.socket) -> bool:
    """Whether a caller of the socket's address is accepted by `sock`."""
    sock.settimeout(5)
    with socket.create_connection(sock.getsockname(), timeout=5):
        peer, _ = sock.accept()
        peer.close()
    return True


def test_an_offered_socket_is_taken_and_accepts(tmp_path: Path) -> None:
    path = tmp_path / "listen.sock"
    sock = listen.bind("127.0.0.1", 0)
    offer = listen.offer(sock, path)
    taken = listen.take(path)
    assert taken is not None
    assert taken.getsockname() == sock.getsockname()
    sock.close()
    assert connects(taken)
    offer.close()
    taken.close()


def test_it_is_taken_after_the_server_closed_its_own_copy(tmp_path: Path) -> None:
    path = tmp_path / "listen.sock"
    sock = listen.bind("127.0.0.1", 0)
    with sock:
        offer = listen.offer(sock, path)
    taken = listen.take(path)
    assert taken is not None
    assert connects(taken)
    offer.close()
    taken.close()


def test_a_path_too_long_for_a_socket_is_offered_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / ("deep" * 20) / ("deeper" * 20) / "listen.sock"
    sock = listen.bind("127.0.0.1", 0)
    offer = listen.offer(sock, path)
    taken = listen.take(path)
    assert taken is not None
    taken.close()
    offer.close()
    assert not path.exists()
    sock.close()


def test_a_stale_offer_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "listen.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    assert listen.take(path) is None
    sock = listen.bind("127.0.0.1", 0)
    offer = listen.offer(sock, path)
    taken = listen.take(path)
    assert taken is not None
    taken.close()
    offer.close()
    sock.close()


@pytest.mark.parametrize("content", [None, "", "/nowhere/listen.sock", "\x00"])
def test_nothing_offered_is_none(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "listen.sock"
    if content is not None:
        path.write_text(content)
    assert listen.take(path) is None


def test_the_offer_is_open_to_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "services" / "listen.sock"
    sock = listen.bind("127.0.0.1", 0)
    offer = listen.offer(sock, path)
    assert path.stat().st_mode & 0o077 == 0
    offer.close()
    sock.close()


def test_a_taken_address_is_an_error(tmp_path: Path) -> None:
    with listen.bind("127.0.0.1", 0) as sock, pytest.raises(OSError):
        listen.bind("127.0.0.1", sock.getsockname()[1])


def test_an_offer_that_was_replaced_ends_without_ending_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "listen.sock"
    with listen.bind("127.0.0.1", 0) as old, listen.bind("127.0.0.1", 0) as new:
        first = listen.offer(old, path)
        second = listen.offer(new, path)
        first.close()
        taken = listen.take(path)
        assert taken is not None
        with taken:
            assert taken.getsockname() == new.getsockname()
        second.close()
        assert not path.exists()


def test_an_offer_outlives_peers_that_leave_at_once(tmp_path: Path) -> None:
    path = tmp_path / "listen.sock"
    with listen.bind("127.0.0.1", 0) as sock:
        offer = listen.offer(sock, path)
        for _ in range(5):
            with socket.socket(socket.AF_UNIX) as rude:
                rude.connect(str(path))
        taken = listen.take(path)
        assert taken is not None
        taken.close()
        offer.close()
