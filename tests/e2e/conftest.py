"""Fixtures of the end-to-end tests."""

import os
import pathlib

import pytest
from peers import ROOT, Daemon, Hub, Postgres

TINY = ROOT / "tests/data/models"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """The daemons' logs stand in the report of a test that failed."""
    report = (yield).get_result()
    if report.failed:
        for daemon in {id(v): v for v in item.funcargs.values() if isinstance(v, Daemon)}.values():
            text = daemon.log_file.read_text(errors="replace") if daemon.log_file.exists() else ""
            report.sections.append((f"log of {daemon.folder}", text[-6000:]))


@pytest.fixture(scope="session")
def postgres():
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="session")
def real_model():
    """The folder of the real model that generates text."""
    folder = pathlib.Path(os.environ["MODELD_TEST_MODELS"]) / SMOLLM2
    assert folder.is_dir()
    return folder


@pytest.fixture(scope="session")
def real_encoder():
    """The folder of the real model that makes vectors."""
    folder = pathlib.Path(os.environ["MODELD_TEST_MODELS"]) / MINILM
    assert folder.is_dir()
    return folder


@pytest.fixture(scope="session")
def shared_hub(tmp_path_factory, real_model, real_encoder):
    """The tiny models and the real ones. Tests go through `hub`."""
    server = Hub(tmp_path_factory.mktemp("hub"))
    for folder in sorted(TINY.iterdir()):
        if folder.is_dir():
            server.add(f"tiny/{folder.name}", folder)
    server.add(SMOLLM2, real_model)
    server.add(MINILM, real_encoder)
    server.start()
    yield server
    server.close()


@pytest.fixture
def hub(shared_hub):
    shared_hub.reset()
    yield shared_hub
    shared_hub.reset()


@pytest.fixture
def make_daemon(tmp_path, postgres):
    """Makes daemons that are not started yet; all end with the test."""
    made = []

    def make(hub_url, **more):
        folder = tmp_path / f"daemon{len(made)}"
        made.append(Daemon(folder, hub_url, more.pop("database", None) or postgres.new_database(), **more))
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()


@pytest.fixture
def daemon(make_daemon, hub):
    """A daemon of the test's own, ready."""
    return make_daemon(hub.url).start()


@pytest.fixture(scope="module")
def module_daemon(tmp_path_factory, postgres, shared_hub):
    """A daemon that the tests of a file share; they use models of their own names."""
    shared_hub.reset()
    server = Daemon(tmp_path_factory.mktemp("daemon"), shared_hub.url, postgres.new_database()).start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def loaded(module_daemon):
    """The shared daemon with the model "tiny" loaded."""
    module_daemon.register("tiny", "tiny/tiny-llama")
    module_daemon.succeed(module_daemon.load("tiny"))
    return module_daemon
