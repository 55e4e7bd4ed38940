"""Start the server of the review page."""

from __future__ import annotations

import errno
import getpass
import os
import socket
import subprocess
import webbrowser
from contextlib import suppress

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo, format_count, warn
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.labels.verdicts import verdicts_path
from ecmf_pipeline.settings.params import load_params

DEFAULT_PORT = 8350


def run(*, host: str, port: int | None, reviewer: str, show_others: bool, open_browser: bool) -> None:
    """Serve the review page of the project in the current directory until Ctrl-C.

    Args:
        host: Host to listen on; others than loopback need the password in the environment.
        port: Port; 0: a free one; None: `DEFAULT_PORT`, or a free one if it is in use.
        reviewer: Name of a reviewer who has not entered one; empty: the name in Git, or of the user.
        show_others: Whether the page shows the answers of other reviewers.
        open_browser: Whether to open the page in the browser of this machine.

    Raises:
        InputError: If the port is in use, the host is not one of this machine, or there is no password.
        MissingInput: If the libraries of the extra `review` are missing, or `index` has not run yet.
    """
    try:
        import uvicorn

        from ecmf_pipeline.review.app import Options, ReviewApp
        from ecmf_pipeline.review.security import PASSWORD, Access, is_loopback, read_secret
    except ImportError as error:
        raise MissingInput(
            f"the review page needs the package {error.name}", command='pip install "ecmf-pipeline[review]"'
        ) from error
    from ecmf_pipeline.review.project import CACHE, Project
    from ecmf_pipeline.review.verdict_log import clean_reviewer
    from ecmf_pipeline.review.workers import Workers

    params = load_params()
    password = os.environ.get(PASSWORD, "")
    if is_loopback(host):
        password = ""
    elif not password:
        raise InputError(
            f"other machines could open the page on {host}, so it needs a password",
            "choose one; or keep the default host and forward its port by ssh -L",
            command=f"{PASSWORD}=... ecmf-pipe review --host {host}",
        )
    try:
        password.encode()
    except UnicodeEncodeError:
        raise InputError(f"{PASSWORD} is not UTF-8, so no browser could send it", "choose another password") from None
    workers = Workers()
    try:
        project = Project(params.corpus.root, verdicts_path(params.refine.verdicts) or paths.VERDICTS, workers)
        project.answers()  # an unreadable file of answers is reported now, not at the first answer
        with _listen(host, port) as listener:
            access = Access(read_secret(CACHE / "secret"), host, listener.getsockname()[1], password)
            if password:
                warn(
                    f"the page is not encrypted, and each machine that reaches {host} can try the password",
                    "use it in networks that you trust only",
                )
            echo(f"review: {access.url()}")
            echo(f"  answers are appended to {project.log.path}; stop with Ctrl-C, then run dvc repro")
            if open_browser:
                webbrowser.open(access.url())
            options = Options(clean_reviewer(reviewer) or _user(), show_others)
            config = uvicorn.Config(
                ReviewApp(project, access, options, workers).asgi(),
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listener])
            echo(f"review: stopped; {format_count(len(project.answers()), 'answer')} in {project.log.path}")
    finally:
        workers.close()


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in (DEFAULT_PORT, 0) if port is None else (port,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            listener.listen(128)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE and port is None and number:
                warn(f"port {number} is in use, perhaps by another review page; a free port is used")
                continue
            if error.errno == errno.EADDRINUSE:
                raise InputError(
                    f"port {number} is in use, perhaps by another review page",
                    "choose another port; 0 is a free one",
                    command="ecmf-pipe review --port 0",
                ) from error
            raise InputError(f"cannot listen on {host}, port {number}: {error.strerror}") from error
        return listener
    raise InputError("no port is free")


def _user() -> str:
    """Return the name in the Git settings, or the name of the user."""
    try:
        named = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, check=False, timeout=2)
        if name := named.stdout.strip():
            return name
    except (OSError, subprocess.TimeoutExpired):
        pass
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "reviewer"
