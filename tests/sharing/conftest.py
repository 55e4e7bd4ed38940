"""Fixtures of a team: a project with features, three kinds of DVC remotes, and clones of the project."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
import pytest
import yaml

from ecmf_pipeline.core.weights import embedded_model

CLIPS = 14

PARAMS = {
    "corpus": {"kind": "folder", "root": "corpus"},
    "models": {"names": ["efficientnet_lite0"]},
    "media": {"frames": 2},
    "transcribe": {"model": None},
    "extract": {"encoders": {"global": "efficientnet_lite0", "audio": "egemaps"}, "workers": 0},
    "llm": {"model": "llm", "gguf_file": "none.gguf"},  # never loaded, since no clip has a transcript
    "train": {"training": {"folds": 2, "seeds": 1, "epochs": 2}},
}


@dataclass(frozen=True)
class Checkout:
    """A working copy of the project, and the environment variables of its user."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *command: str, fails: bool = False) -> str:
        """Run a command in the working copy and return its output, with stderr in order of printing."""
        process = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=150,
        )
        assert (process.returncode != 0) == fails, f"{command}\n{process.stdout}"
        return process.stdout

    def commit(self, message: str) -> None:
        self("git", "add", "--all")
        self("git", "commit", "--quiet", "--message", message)

    def clone(self, folder: Path) -> Checkout:
        """Return a clone as a colleague gets it by `git clone`: without features, weights and clips."""
        subprocess.run(
            ["git", "clone", "--quiet", str(self.folder), str(folder)], env=self.environment, check=True, timeout=60
        )
        return Checkout(folder, self.environment)

    def copy(self, folder: Path) -> Checkout:
        shutil.copytree(self.folder, folder, symlinks=True)
        return Checkout(folder, self.environment)

    def change(self, changes: dict[str, object]) -> None:
        """Merge changes into params.yaml, down to the second level."""
        params = yaml.safe_load((self.folder / "params.yaml").read_text())
        for section, values in changes.items():
            for key, value in values.items():  # type: ignore[attr-defined]
                old = params[section].get(key)
                params[section][key] = old | value if key != "encoders" and isinstance(old, dict) else value
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def features(self) -> dict[str, bytes]:
        """Return the content of each file of the stores."""
        root = self.folder / "data" / "features"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.zarr/**/*") if path.is_file()}


@dataclass(frozen=True)
class Remote:
    """The DVC remote of a team.

    Attributes:
        url: Argument of `dvc remote add`.
        shared: Settings that are committed to git.
        own: Settings of each user (`--local`).
    """

    url: str
    shared: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)

    def add(self, checkout: Checkout) -> None:
        checkout("dvc", "remote", "add", "--default", "team", self.url)
        for key, value in self.shared.items():
            checkout("dvc", "remote", "modify", "team", key, value)
        checkout.commit("Add the remote")

    def log_in(self, checkout: Checkout) -> None:
        for key, value in self.own.items():
            checkout("dvc", "remote", "modify", "--local", "team", key, value)


@pytest.fixture(scope="session")
def environment(tmp_path_factory, models) -> dict[str, str]:
    """Environment variables of a user with a key of the S3 server, and with weights in the cache of all projects."""
    home = tmp_path_factory.mktemp("home")
    model = embedded_model("efficientnet_lite0")
    cache = home / ".cache" / "ecmf-pipeline" / "models"
    cache.mkdir(parents=True)
    for file in model.files:
        shutil.copyfile(models / model.name / file.name, cache / file.sha256)
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "PIP_NO_INDEX": "1",
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "team@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture(scope="session")
def add_clips(make_clip) -> Callable[[Checkout, int, int], None]:
    """Return a function that adds clips with the given numbers to the corpus of a checkout."""

    def add(checkout: Checkout, first: int, end: int) -> None:
        corpus = checkout.folder / "corpus"
        for number in range(first, end):
            make_clip(corpus / f"clip{number:02d}.mp4", pictures=6, audio_seconds=1.0, amplitude=0.1 + 0.02 * number)
        names = sorted(path.stem for path in corpus.glob("*.mp4"))
        lines = [f"{name},{'bad' if index % 2 else 'good'}" for index, name in enumerate(names)]
        (corpus / "labels.csv").write_text("\n".join(["name,label", *lines, ""]))

    return add


@pytest.fixture(scope="session")
def finished(tmp_path_factory, environment, add_clips) -> Checkout:
    """A project with features and a trained model, all committed to git; tests copy it and do not change it."""
    checkout = Checkout(tmp_path_factory.mktemp("team") / "project", environment)
    folder = checkout.folder
    Checkout(folder.parent, environment)(sys.executable, "-m", "ecmf_pipeline", "init", str(folder))
    params = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(params | {"corpus": PARAMS["corpus"]}, sort_keys=False))
    checkout.change({name: section for name, section in PARAMS.items() if name != "corpus"})
    (folder / "llm").mkdir()
    (folder / "llm" / "none.gguf").write_text("never read")
    (folder / ".gitignore").write_text("/corpus/\n")
    add_clips(checkout, 0, CLIPS)
    checkout("dvc", "repro", "train@given")
    checkout.commit("Features and a model")
    return checkout


@pytest.fixture
def ours(finished, tmp_path) -> Checkout:
    return finished.copy(tmp_path / "ours")


@pytest.fixture
def local_remote(tmp_path) -> Remote:
    return Remote(str(tmp_path / "remote"))


@pytest.fixture
def ssh_remote(tmp_path) -> Iterator[Remote]:
    """An SSH server with SFTP on the loopback interface."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(tmp_path / "key")
    key.write_public_key(tmp_path / "authorized_keys")
    (tmp_path / "key").chmod(0o600)
    with _sftp_server(tmp_path / "authorized_keys") as port:
        yield Remote(f"ssh://anna@127.0.0.1:{port}{tmp_path / 'remote'}", own={"keyfile": str(tmp_path / "key")})


@contextmanager
def _sftp_server(authorized_keys: Path) -> Iterator[int]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            authorized_client_keys=str(authorized_keys),
            sftp_factory=True,
        )

    async def stop(server: asyncssh.SSHAcceptor) -> None:
        server.close()
        await server.wait_closed()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        server = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
        yield server.get_port()
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def s3_remote(environment) -> Iterator[Remote]:
    """An S3 server on the loopback interface."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    lines = server.stderr or []
    try:
        address = next(line.split("Running on ")[1].strip() for line in lines if "Running on http" in line)
    except StopIteration:
        server.wait()
        pytest.fail("the S3 server did not start")
    reader = threading.Thread(target=lambda: [None for _ in lines])  # drains the pipe, or the server would block
    reader.start()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{address}/team", method="PUT"), timeout=30):
            pass
        yield Remote("s3://team/emotions", shared={"endpointurl": address})
    finally:
        server.terminate()
        server.wait()
        reader.join()
        if server.stderr:
            server.stderr.close()


@pytest.fixture(params=["local", "ssh", "s3"])
def remote(request) -> Remote:
    return request.getfixturevalue(f"{request.param}_remote")
