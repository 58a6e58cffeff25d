"""The roll call: nobody goes on before all are there, and all hear the same of a mistake."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.errors import ConfigError
from jtl.experiment.rollcall import Seat, call_roll, split_address


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"127.0.0.1:{port}"


def call(address, seats, timeout, late=()):
    """What each of several processes hears: an error's text, or an empty one."""

    def one(processes, process):
        if process in late:
            time.sleep(0.3)
        try:
            call_roll(Seat(coordinator=address, processes=processes, process=process), timeout)
        except ConfigError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(seats)) as pool:
        return [done.result() for done in [pool.submit(one, *seat) for seat in seats]]


@pytest.mark.parametrize("late", [(), (0,), (1, 3)])
def test_all_go_on_once_all_are_there(address, late):
    assert call(address, [(4, i) for i in range(4)], 20, late) == [""] * 4


def test_the_port_is_free_again_afterwards(address):
    assert call(address, [(2, 0), (2, 1)], 20) == ["", ""]
    host, port = split_address(address)
    with socket.create_server((host, port), reuse_port=False):
        pass


def test_one_alone_asks_nobody():
    call_roll(Seat(coordinator="nowhere.invalid:1", processes=1, process=0), 0.01)


def test_missing_processes_are_named_to_all_that_are_there(address):
    heard = call(address, [(5, 0), (5, 2), (5, 4)], 0.5)
    assert len(set(heard)) == 1
    assert f"2 processes (1, 3) of 5 did not arrive at {address} within 0.5 seconds" in heard[0]


def test_a_missing_first_process_is_named_to_the_others(address):
    heard = call(address, [(3, 1), (3, 2)], 0.5)
    assert len(set(heard)) == 1
    assert heard[0].startswith(f"process 0 of 3 did not arrive at {address} within 0.5 seconds")


def test_a_process_that_leaves_again_is_missing(address):
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, address, [(3, 0)], 2)
        visit(address, b'{"process": 1, "processes": 3}\n')
        heard = call(address, [(3, 2)], 2) + first.result()
    assert len(set(heard)) == 1
    assert heard[0].startswith("process 1 of 3 did not arrive")


def visit(address, message):
    """Comes once somebody listens, says something, and leaves."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(split_address(address), timeout=1) as own:
                own.sendall(message)
                return
        except OSError:
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("seats", "problem"),
    [
        ([(2, 0), (3, 1)], "process 1 was started as one of 3, process 0 as one of 2"),
        ([(3, 0), (3, 1), (3, 1)], "two processes were started as process 1 of 3"),
    ],
)
def test_a_disagreement_is_told_to_all(address, seats, problem):
    heard = call(address, seats, 20)
    assert len(set(heard)) == 1
    assert problem in heard[0]


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b"{}\n", b"\xff\n", b"x" * 9999]
)
def test_strangers_at_the_port_are_ignored(address, noise):
    host, port = split_address(address)
    over = threading.Event()

    def knock():
        while not over.is_set():
            try:
                with socket.create_connection((host, port), timeout=1) as own:
                    own.sendall(noise)
                    own.settimeout(0.2)
                    own.recv(1)
            except OSError:
                time.sleep(0.01)

    stranger = threading.Thread(target=knock)
    stranger.start()
    try:
        assert call(address, [(2, 0), (2, 1)], 20, late=(1,)) == ["", ""]
    finally:
        over.set()
        stranger.join()


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        seat = Seat(coordinator=f"127.0.0.1:{port}", processes=2, process=0)
        with pytest.raises(ConfigError, match=f"cannot listen at port {port} .*another port"):
            call_roll(seat, 5)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"coordinator": "10.0.0.1"}, "no HOST:PORT"),
        ({"coordinator": "10.0.0.1:"}, "no HOST:PORT"),
        ({"coordinator": ":1234"}, "no HOST:PORT"),
        ({"coordinator": "10.0.0.1:70000"}, "no HOST:PORT"),
        ({"process": 2}, "process=2 is none of 2 processes; they count from 0 to 1"),
        ({"process": -1}, "process=-1 is none of 2"),
    ],
)
def test_a_seat_that_makes_no_sense_is_refused(fields, match):
    with pytest.raises(ConfigError, match=match):
        Seat(**{"coordinator": "10.0.0.1:1234", "processes": 2, "process": 0, **fields})


@given(st.sampled_from(["10.0.0.1", "node-1.example", "::1", "fe80::9b"]), st.integers(1, 65535))
def test_addresses_are_split_as_they_were_joined(host, port):
    joined = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    assert split_address(joined) == (host, port)
