"""One process that forks, and one run that nothing happened to, for all tests of faults."""

import pytest

from tests.training.faults.processes import Server, compile_preload


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    server = Server(folder, compile_preload(folder))
    yield server
    server.close()


@pytest.fixture(scope="session")
def whole(server, tmp_path_factory):
    """The folder of a run that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    assert server.call("tiny:train", folder=str(folder)) == 0, server.tail()
    return folder
