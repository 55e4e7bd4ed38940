"""The web application: pages, clips as JSON, media with byte ranges, and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl
from weakref import WeakValueDictionary

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.errors import ClipError, EcmfError, StoreBusy, WorkerCrashed
from ecmf_pipeline.core.files import FileState
from ecmf_pipeline.labels.verdicts import (
    BAD_CLIP,
    MAX_SECONDS,
    MIN_GOLD,
    NO_EMOTION,
    UNSURE,
    Answer,
    neutral_label,
    other_answers,
)
from ecmf_pipeline.review.agreement import measure_agreement
from ecmf_pipeline.review.catalog import Filters
from ecmf_pipeline.review.effect import estimate_effect
from ecmf_pipeline.review.faces import FaceStrip, cut_faces
from ecmf_pipeline.review.media import Playable, describe, encode_clip, find_playable
from ecmf_pipeline.review.project import CACHE, Project, UnknownAnswer
from ecmf_pipeline.review.security import Access, Guard, client_network
from ecmf_pipeline.review.transcoding import MEDIA_TYPES
from ecmf_pipeline.review.verdict_log import clean_reviewer
from ecmf_pipeline.review.words import find_spoken_words
from ecmf_pipeline.review.workers import Workers

Result = TypeVar("Result")

_LETTERS = "acdefghijklmopqtwxy"
"""Keys of the labels after the tenth: all letters that are not keys of something else."""
_OTHER_KEYS = {UNSURE: "u", BAD_CLIP: "b", NO_EMOTION: "n"}
_MAX_BODY = 20_000
_MAX_AHEAD = 5
_KEPT_STRIPS = 16


class SentAnswer(BaseModel):
    """An answer as the page sends it; see `labels.verdicts.Answer`."""

    model_config = ConfigDict(extra="forbid")

    name: str
    label: str
    seconds: float = Field(ge=0, allow_inf_nan=False)
    digest: str = Field(pattern="^[0-9a-f]{0,64}$")


class SentReviewer(BaseModel):
    """The name of a reviewer as the page sends it."""

    model_config = ConfigDict(extra="forbid")

    name: str


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command.

    Attributes:
        reviewer: Name of a reviewer who has not entered one.
        show_others: Whether the page shows the answers of other reviewers.
    """

    reviewer: str
    show_others: bool = False


def label_keys(labels: list[str]) -> dict[str, str]:
    """Return the key of each label: digits, then letters; labels after the 29th have none."""
    return dict(zip(labels, [*"1234567890", *_LETTERS], strict=False))


class ReviewApp:
    """Handlers of the review page.

    Args:
        project: The project.
        access: Who may use the page.
        options: Options of the command.
        workers: Worker processes.
    """

    def __init__(self, project: Project, access: Access, options: Options, workers: Workers) -> None:
        self._project, self._access, self._options, self._workers = project, access, options, workers
        self._encoding: dict[str, Future[Playable]] = {}
        self._strips: dict[tuple[str, str], Future[FaceStrip | None]] = {}
        # Wrong passwords of a machine take a second each, also if it tries many at once; others do not wait for it.
        self._logins: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._effect: tuple[object, Future[dict[str, Any]]] | None = None
        self._templates = Environment(
            loader=PackageLoader("ecmf_pipeline.review"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )

    def asgi(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/", self._page),
            Route("/progress", self._progress_page),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/api/next", self._next),
            Route("/api/clip/{name}", self._clip),
            Route("/api/verdict", self._verdict, methods=["POST"]),
            Route("/api/reviewer", self._reviewer, methods=["POST"]),
            Route("/api/effect", self._estimate),
            Route("/api/words/{name}", self._words),
            Route("/media/{name}", self._media),
            Route("/faces/{name}", self._faces),
            Route("/faces/{name}/strip.jpg", self._strip),
            Route("/favicon.ico", self._icon),
            Mount("/static", StaticFiles(packages=[("ecmf_pipeline.review", "static")])),
        ]
        handlers: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
            EcmfError: self._explain,
            OSError: self._explain,
            ValidationError: self._reject,
        }
        return Starlette(
            routes=routes, exception_handlers=handlers, middleware=[Middleware(Guard, access=self._access)]
        )

    # Pages

    async def _page(self, request: Request) -> Response:
        first = await run_in_threadpool(self._first_clips, request)
        labels = self._project.labels
        others = other_answers(labels)
        state = {
            "labels": labels,
            "others": others,
            "keys": {**label_keys(labels), **{answer: _OTHER_KEYS[answer] for answer in others}},
            "neutral": neutral_label(labels) or "",
            "needed": MIN_GOLD,
            "project": self._access.project_id,
            "reviewer": self._name(request),
            **first,
        }
        return self._html(
            "review.html",
            state=state,
            reviewer=self._name(request),
            csrf=self._access.csrf,
            synthetic=self._project.synthetic,
        )

    async def _progress_page(self, request: Request) -> Response:  # noqa: ARG002
        def measured() -> dict[str, Any]:
            catalog = self._project.catalog(wait=True)
            answers = list(self._project.answers().values())
            counts = dict.fromkeys([*self._project.labels, *other_answers(self._project.labels)], 0)
            for answer in answers:
                counts[answer.label] += 1
            agreement, problem = None, ""
            try:
                agreement = measure_agreement(answers, self._project.labels)
            except EcmfError as error:
                problem = str(error)
            return {
                "counts": counts,
                "answers": len(answers),
                "clips": len(catalog.clips) if catalog else 0,
                "labelled": self._labelled(),
                "agreement": agreement,
                "problem": problem,
                "path": str(self._project.log.path),
                "needed": MIN_GOLD,
            }

        return self._html("progress.html", csrf=self._access.csrf, **await run_in_threadpool(measured))

    async def _login(self, request: Request) -> Response:
        if not self._access.password:
            return RedirectResponse("/", 303)
        problem = ""
        if request.method == "POST":
            form = dict(parse_qsl((await _body(request, "application/x-www-form-urlencoded")).decode(errors="replace")))
            name, password = clean_reviewer(form.get("name", "")), form.get("password", "")
            if not name:
                problem = "Enter your name: it is stored with your answers."
            elif await self._check_password(request, password):
                response = RedirectResponse("/", 303)
                self._access.set_session(response)
                self._access.set_reviewer(response, name)
                return response
            else:
                problem = "This is not the password."
        return self._html("login.html", problem=problem)

    async def _check_password(self, request: Request, password: str) -> bool:
        network = client_network(request.client.host if request.client else "")
        lock = self._logins.setdefault(network, asyncio.Lock())
        async with lock:
            return await self._access.check_password(password)

    async def _icon(self, request: Request) -> Response:  # noqa: ARG002
        return Response(status_code=204)

    # Clips and answers

    def _next_clips(self, request: Request, count: int) -> dict[str, Any]:
        reviewer = self._name(request)
        filters = Filters(**{name: request.query_params.get(name, "") for name in Filters._fields})
        names = self._project.queue(filters, reviewer, request.query_params.getlist("skip"), count)
        progress = self._project.progress(filters, reviewer)
        catalog = self._project.catalog()
        return {
            "clips": [self._describe(name, reviewer) for name in names],
            "progress": asdict(progress) if progress else None,
            "labelled": self._labelled(),
            "problem": self._project.problem,
            "decisions": list(catalog.decisions) if catalog else [],
            "groups": sorted(catalog.groups)[:500] if catalog else [],
            "filters": filters._asdict(),
        }

    def _first_clips(self, request: Request) -> dict[str, Any]:
        """Return the clip that the address names (``?clip=``, as links of the report do), or else the next one."""
        first = self._next_clips(request, 1)
        if name := request.query_params.get("clip"):
            first["clips"] = [self._describe(self._project.clip(name).clip_id, self._name(request))]
        return first

    def _describe(self, name: str, reviewer: str) -> dict[str, Any]:
        shown = self._project.describe(name, reviewer, show_others=self._options.show_others)
        if shown["end"]:  # the page plays a span of the file, but all of an encoded copy
            try:
                playable = _find_playable(self._project.clip(name), self._project.root, CACHE / "media")
            except ClipError:  # the request of the media explains it
                playable = None
            shown["start"], shown["end"] = (playable.start, playable.end) if playable else (0.0, 0.0)
        return shown

    def _labelled(self) -> int:
        """Return the number of clips that a person has given a label."""
        labels = {*self._project.labels, *([NO_EMOTION] if neutral_label(self._project.labels) else [])}
        return len({answer.clip_id for answer in self._project.answers().values() if answer.label in labels})

    async def _next(self, request: Request) -> Response:
        try:
            count = min(max(int(request.query_params.get("count", "1")), 0), _MAX_AHEAD)
        except ValueError:
            raise HTTPException(400, "count is not a number") from None
        return JSONResponse(await run_in_threadpool(self._next_clips, request, count))

    async def _clip(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._describe, request.path_params["name"], self._name(request)))

    async def _words(self, request: Request) -> Response:
        clip = await run_in_threadpool(self._project.clip, request.path_params["name"])
        return JSONResponse([list(word) for word in await self._workers.run(find_spoken_words, clip)])

    async def _verdict(self, request: Request) -> Response:
        sent = SentAnswer.model_validate_json(await _body(request))
        answer = Answer(
            sent.name,
            sent.label,
            self._name(request),
            seconds=min(sent.seconds, MAX_SECONDS),
            digest=sent.digest,
        )
        stored = await run_in_threadpool(self._project.record, answer)
        return JSONResponse({"stored": stored, "labelled": await run_in_threadpool(self._labelled)})

    async def _reviewer(self, request: Request) -> Response:
        name = clean_reviewer(SentReviewer.model_validate_json(await _body(request)).name)
        if not name:
            raise HTTPException(400, "the name is empty")
        response = JSONResponse({"reviewer": name})
        self._access.set_reviewer(response, name)
        return response

    async def _estimate(self, request: Request) -> Response:  # noqa: ARG002
        state = [
            FileState.of(path) if path.is_file() else None
            for path in (self._project.log.path, paths.REFINED, paths.VOTES, paths.PARAMS)
        ]
        if self._effect is None or self._effect[0] != state or _has_failed(self._effect[1]):
            self._effect = (state, self._workers.submit(estimate_effect))
        return JSONResponse(await _result(self._effect[1]))

    # Media

    async def _media(self, request: Request) -> Response:
        clip = await run_in_threadpool(self._project.clip, request.path_params["name"])
        cache = CACHE / "media"
        playable = await run_in_threadpool(_find_playable, clip, self._project.root, cache)
        if playable is None:
            encoding = self._encoding.get(clip.clip_id)
            if encoding is None:
                encoding = self._workers.submit(encode_clip, clip, self._project.root, cache)
                self._encoding[clip.clip_id] = encoding
                encoding.add_done_callback(lambda _: self._encoding.pop(clip.clip_id, None))
            playable = await _result(encoding)
        media_type = MEDIA_TYPES.get(playable.path.suffix[1:].lower(), "application/octet-stream")
        headers = {"cache-control": "private, max-age=3600", "vary": "cookie"}
        return FileResponse(playable.path, media_type=media_type, headers=headers)

    async def _cutting(self, request: Request) -> Future[FaceStrip | None]:
        clip = await run_in_threadpool(self._project.clip, request.path_params["name"])
        key = (clip.clip_id, clip.digest)
        if key not in self._strips or _has_failed(self._strips[key]):
            while len(self._strips) >= _KEPT_STRIPS:
                self._strips.pop(next(iter(self._strips)))
            self._strips[key] = self._workers.submit(cut_faces, clip)
        return self._strips[key]

    async def _faces(self, request: Request) -> Response:
        """Return at once: browsers have six connections to a server, and answers must not wait for faces."""
        cutting = await self._cutting(request)
        if not cutting.done():
            return JSONResponse({"ready": False, "times": [], "scores": []})
        strip = await _result(cutting)
        return JSONResponse(
            {"ready": True, "times": strip.times if strip else [], "scores": strip.scores if strip else []}
        )

    async def _strip(self, request: Request) -> Response:
        cutting = await self._cutting(request)
        strip = await _result(cutting)
        if strip is None:
            raise HTTPException(404, "there are no face crops of this clip")
        return Response(strip.picture, media_type="image/jpeg", headers={"cache-control": "private, max-age=600"})

    # Parts

    def _name(self, request: Request) -> str:
        return self._access.reviewer(request, self._options.reviewer)

    def _html(self, template: str, **values: object) -> Response:
        return HTMLResponse(
            self._templates.get_template(template).render(**values), headers={"cache-control": "no-store"}
        )

    async def _reject(self, request: Request, error: Exception) -> Response:  # noqa: ARG002
        return JSONResponse({"problem": f"the page sent something unexpected: {error}"}, 400)

    async def _explain(self, request: Request, error: Exception) -> Response:
        status = 404 if isinstance(error, ClipError) else 503 if isinstance(error, StoreBusy) else 409
        if isinstance(error, UnknownAnswer):
            status = 422  # the page drops the answer, which would hold up those behind it
        if isinstance(error, ClipError):
            text = describe(error)
        elif isinstance(error, EcmfError):
            text = str(error)
        else:
            status, text = 507, f"{getattr(error, 'filename', None) or 'a file'}: {getattr(error, 'strerror', error)}"
        if request.url.path in {"/", "/progress"}:
            response = self._html("error.html", problem=text)
            response.status_code = status
            return response
        return JSONResponse({"problem": text}, status)


async def _result(job: Future[Result]) -> Result:
    """Wait for a job of a worker, which goes on if the browser leaves.

    Raises:
        WorkerCrashed: If the worker process ends, probably in a decoder.
    """
    try:
        return await asyncio.shield(asyncio.wrap_future(job))
    except BrokenProcessPool:
        raise WorkerCrashed("the process that worked on this has crashed") from None


def _has_failed(job: Future[Any]) -> bool:
    return job.done() and (job.cancelled() or job.exception() is not None)


async def _body(request: Request, content_type: str = "application/json") -> bytes:
    """Return the content of a write.

    Raises:
        HTTPException: If it is too long or declared as another type.
    """
    if request.headers.get("content-type", "").partition(";")[0] != content_type:
        raise HTTPException(415, f"the content is not {content_type}")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY:
            raise HTTPException(413, "the content is too long")
    return body


@lru_cache(maxsize=256)
def _known_playable(clip: Clip, root: Path, cache: Path, state: FileState) -> Playable:  # noqa: ARG001
    found = find_playable(clip, root, cache)
    if found is None or found.path.parent == cache:
        raise LookupError
    return found


def _find_playable(clip: Clip, root: Path, cache: Path) -> Playable | None:
    """Return what the browser plays; files that it plays as they are, are opened once, not for each byte range.

    Copies are looked up each time: they are removed if the cache is full.
    """
    try:
        return _known_playable(clip, root, cache, FileState.of(root / clip.path))
    except (LookupError, OSError):
        return find_playable(clip, root, cache)
