"""A server of objects that all tests of a process share."""

import pytest

from tests.training.objects import serving


@pytest.fixture(scope="session")
def server_of_objects():
    with serving() as environment:
        yield environment


@pytest.fixture
def objects(server_of_objects, monkeypatch, tmp_path):
    """Leads `gs://` to the server, and keeps what is fetched below the test's own folder."""
    for name, value in server_of_objects.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    return server_of_objects
