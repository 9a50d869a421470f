"""How modeld reaches hubs: credentials, offline, mirrors, proxies, certificates of an own authority."""

import shutil
import subprocess

import pytest
from conftest import TINY
from peers import BIN, Hub, eventually
from proxy import Proxy
from rpc import Refusal

REPO = "tiny/tiny-llama"
SECRET = "hf_of_the_team"


def plan(daemon, name):
    return daemon.client.call("modeld.v1.Orchestrator/PlanDownload", {"model_name": name})


def dump(postgres, database):
    """The whole database as SQL text."""
    command = [str(postgres.bin / "pg_dump"), "--inserts", database]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_gated_repository_opens_with_the_credential_of_its_model(make_daemon, hub, postgres, tmp_path):
    hub.tell(change={REPO: {"gated": "manual", "tokens": [SECRET]}})
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "team").write_text(SECRET + "\n")
    database = postgres.new_database()
    environment = {"HF_TOKEN": "hf_of_nobody", "CREDENTIALS_DIRECTORY": str(credentials)}
    daemon = make_daemon(hub.url, database=database, environment=environment).start()
    try:
        with pytest.raises(Refusal) as refused:
            daemon.register("plain", REPO)
        assert (refused.value.code, refused.value.reason) == ("PERMISSION_DENIED", "HUB_ACCESS_DENIED")
        with pytest.raises(Refusal) as refused:
            daemon.register("lost", REPO, token_credential="nobody")
        assert refused.value.reason == "HUB_ACCESS_DENIED" and '"nobody"' in refused.value.message
        with pytest.raises(Refusal) as refused:
            daemon.register("odd", REPO, token_credential="../team")
        assert refused.value.fields[0].startswith("token_credential")

        command = [str(BIN / "modelctl"), "--server", daemon.grpc_address, "register", "gated", REPO]
        made = subprocess.run([*command, "--token-credential", "team"], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        assert any(line.split() == ["token_credential", "team"] for line in made.stdout.splitlines())
        daemon.succeed(daemon.load("gated"))

        assert daemon.model("gated")["token_credential"] == "team"
        assert all(not e["had_token"] for e in hub.log() if e["port"] == "cdn")
        for text in (daemon.log_file.read_text(), daemon.http("/metrics")[1], dump(postgres, database)):
            assert SECRET not in text and "hf_of_nobody" not in text
    finally:
        hub.tell(change={REPO: {"gated": False, "tokens": []}})


def test_offline_nothing_leaves_and_what_is_there_is_loaded(make_daemon, hub):
    online = make_daemon(hub.url).start()
    online.register("tiny", REPO)
    online.succeed(online.download("tiny"))
    assert online.stop() == 0
    hub.tell(clear=["log"])
    # Another daemon with an empty database on the same cache.
    offline = make_daemon(hub.url, environment={"HF_HUB_OFFLINE": "1"})
    shutil.copytree(online.cache, offline.cache, symlinks=True, dirs_exist_ok=True)
    offline.start()

    registered = offline.register("tiny", REPO, estimated_size_mb=1)
    other = offline.register("other", "tiny/tiny-qwen2")
    offline.succeed(offline.load("tiny"))
    failed = offline.download("tiny")
    missing = offline.load("other")

    assert registered["space_check"]["required_bytes"] == "1000000"
    assert other["space_check"]["warning"]
    for operation in (failed, missing):
        assert operation["state"] == "OPERATION_STATE_FAILED", operation
        assert "offline" in operation["error"]["message"]
    with pytest.raises(Refusal) as refused:
        plan(offline, "tiny")
    assert refused.value.reason == "HUB_UNAVAILABLE" and not refused.value.retry
    assert hub.log() == []


def test_a_mirror_goes_on_where_the_hub_died(make_daemon, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(TINY / "tiny-llama", source)
    body = bytes(range(256)) * 4096 * 24  # 24 MiB
    (source / "big.dat").write_bytes(body)
    hubs = [Hub(tmp_path / name) for name in ("first", "second")]
    try:
        for hub in hubs:
            hub.add(REPO, source)
            hub.start()
        first, second = hubs
        first.tell(add=[{"kind": "drip", "on": "cdn", "bytes_per_s": 6 << 20}])
        daemon = make_daemon(first.url, environment={"MODELD_HUB_MIRRORS": second.url}).start()
        daemon.register("big", REPO)
        name = daemon.client.call("modeld.v1.Orchestrator/DownloadModel", {"model_name": "big"})["name"]

        def fetched():
            operation = daemon.client.call("modeld.v1.Orchestrator/GetOperation", {"name": name})
            return int(operation.get("bytes_done", 0)) > 8 << 20

        eventually(fetched, "8 MiB are there")
        assert second.log() == []
        first.close()

        daemon.succeed(daemon.finish(name))

        blobs = [e for e in second.bodies() if e["path"].endswith("big.dat") or e["port"] == "cdn"]
        assert 0 < sum(e["bytes"] for e in blobs) < len(body) - (6 << 20), "the first part was kept"
        assert not any(e["had_token"] for e in second.log())
        snapshot = daemon.model("big")["snapshot_path"]
        with open(f"{snapshot}/big.dat", "rb") as file:
            assert file.read() == body
        assert 'modeld_download_retries_total{reason="mirror"}' in daemon.http("/metrics")[1]
    finally:
        for hub in hubs:
            hub.close()


@pytest.fixture
def proxy():
    server = Proxy("ada", "proxy_password")
    yield server
    server.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate authority of our own, and a certificate for 127.0.0.1 from it."""
    folder = tmp_path_factory.mktemp("ca")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "rsa:2048", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    openssl("req", *key, "-keyout", "hub.key", "-out", "hub.csr", "-subj", "/CN=hub")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        "x509", "-req", "-in", "hub.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
        "-days", "2", "-extfile", "names", "-out", "hub.pem",
    )  # fmt: skip
    return folder


@pytest.fixture
def tls_hub(tmp_path, authority):
    server = Hub(tmp_path / "tls", tls=(authority / "hub.pem", authority / "hub.key"))
    server.add(REPO, TINY / "tiny-llama")
    server.start()
    yield server
    server.close()


def test_a_hub_with_an_own_authority_is_reached_through_a_proxy(make_daemon, tls_hub, authority, proxy):
    environment = {
        "MODELD_HUB_PROXY": f"http://ada:proxy_password@{proxy.address}",
        "MODELD_HUB_CA_FILE": str(authority / "ca.pem"),
        "HF_TOKEN": SECRET,
    }
    daemon = make_daemon(tls_hub.url, environment=environment).start()
    daemon.register("tiny", REPO)
    daemon.succeed(daemon.download("tiny"))

    targets = {target for _, target, _ in proxy.passed}
    assert targets == {f"127.0.0.1:{port}" for port in (tls_hub.ports["port"], tls_hub.ports["cdn_port"])}
    assert all("Authorization" not in headers for _, _, headers in proxy.passed)
    log = daemon.log_file.read_text()
    assert "proxy_password" not in log and SECRET not in log


def test_a_hub_with_an_unknown_authority_is_not_believed(make_daemon, tls_hub):
    daemon = make_daemon(tls_hub.url).start()
    daemon.register("tiny", REPO, estimated_size_mb=1)  # by the estimate

    with pytest.raises(Refusal) as refused:
        plan(daemon, "tiny")

    assert refused.value.reason == "HUB_UNAVAILABLE" and "cert" in refused.value.message.lower()
    assert tls_hub.log() == []


def test_the_proxies_of_the_environment_are_used(make_daemon, hub, proxy):
    url = f"http://ada:proxy_password@{proxy.address}"
    daemon = make_daemon(hub.url, environment={"HTTP_PROXY": url, "NO_PROXY": "", "no_proxy": ""}).start()
    daemon.register("tiny", REPO)
    # The hub, and the other origin that its answers lead to for the headers of weights.
    origins = {"/".join(target.split("/")[:3]) for _, target, _ in proxy.passed}
    assert hub.url in origins and len(origins) == 2

    passed = len(proxy.passed)
    direct = make_daemon(hub.url, environment={"HTTP_PROXY": url, "NO_PROXY": "127.0.0.1"}).start()
    direct.register("tiny", REPO)
    assert len(proxy.passed) == passed


def test_a_proxy_that_refuses_is_named(make_daemon, tls_hub, authority, proxy):
    environment = {
        "MODELD_HUB_PROXY": f"http://ada:wrong@{proxy.address}",
        "MODELD_HUB_CA_FILE": str(authority / "ca.pem"),
    }
    daemon = make_daemon(tls_hub.url, environment=environment).start()
    daemon.register("tiny", REPO, estimated_size_mb=1)

    with pytest.raises(Refusal) as refused:
        plan(daemon, "tiny")

    assert "the proxy answered 407" in refused.value.message
    assert "wrong" not in refused.value.message
