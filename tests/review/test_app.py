"""The server of the review page: what it shows, what it stores, and whom it lets in."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
from starlette.requests import Request
from starlette.testclient import TestClient

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, Corpus, write_corpus_tables
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.files import fingerprint, write_atomic
from ecmf_pipeline.llm.answers import AnswerCache, AnswerWriter
from ecmf_pipeline.review.app import Options, ReviewApp, label_keys
from ecmf_pipeline.review.catalog import load_catalog
from ecmf_pipeline.review.media import shrink
from ecmf_pipeline.review.project import Project
from ecmf_pipeline.review.security import Access, client_network, read_secret
from ecmf_pipeline.review.verdict_log import clean_reviewer
from ecmf_pipeline.review.workers import Workers
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.transcription.table import Transcript, TranscriptRecord, Utterance, Verdict, write_transcripts
from tests.review.conftest import LABELS

ORIGIN = "http://127.0.0.1:8350"


class InlineWorkers(Workers):
    """Run jobs at once in this process."""

    def submit(self, job: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        future: Future[Any] = Future()
        try:
            future.set_result(job(*args, **kwargs))
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        return future


def make_client(*, reviewer: str = "me", show_others: bool = False, **access: Any) -> TestClient:
    project = Project(Path("corpus"), paths.VERDICTS, InlineWorkers())
    allowed = Access(**({"secret": b"s" * 32, "host": "127.0.0.1", "port": 8350} | access))
    app = ReviewApp(project, allowed, Options(reviewer, show_others), InlineWorkers())
    client = TestClient(app.asgi(), base_url=ORIGIN, follow_redirects=False)
    client.access = allowed
    return client


def sign_in(client: TestClient) -> TestClient:
    response = client.get("/", params={"token": client.access.token})
    assert response.status_code == 200
    return client


def send(client: TestClient, path: str, content: object, **headers: str) -> Any:
    own = {"origin": ORIGIN, "x-review-token": client.access.csrf, "content-type": "application/json"}
    body = content if isinstance(content, str) else json.dumps(content)
    return client.post(path, content=body, headers={**own, **headers})


def answer(client: TestClient, clip: Clip, label: str, **headers: str) -> Any:
    content = {"name": clip.clip_id, "label": label, "seconds": 1.5, "digest": clip.digest}
    return send(client, "/api/verdict", content, **headers)


def names(client: TestClient, **query: Any) -> list[str]:
    return [clip["name"] for clip in client.get("/api/next", params={"count": 5, **query}).json()["clips"]]


@pytest.fixture
def client(project: list[Clip]) -> TestClient:
    return sign_in(make_client())


def test_the_list_of_refine_comes_first_then_the_largest_gain(client: TestClient) -> None:
    assert names(client) == ["clip11", "clip10", "clip09", "clip08", "clip07"]
    assert names(client, skip=["clip11", "clip09"]) == ["clip10", "clip08", "clip07", "clip06", "clip05"]


def test_filters_select_clips(client: TestClient) -> None:
    assert names(client, decision="keep") == ["clip11", "clip09", "clip07", "clip05", "clip03"]
    assert names(client, group="speaker0", kind="disagreement") == ["clip10", "clip08", "clip04", "clip02"]
    assert names(client, label="sad") == []
    assert names(client, kind="unlabelled") == []
    assert names(client, kind="zero-shot") == ["clip07"]
    assert "zero-shot, unverified" in client.get("/api/clip/clip07").json()["why"]


def test_an_answer_is_stored_and_the_clip_is_not_asked_again(client: TestClient, project: list[Clip]) -> None:
    assert answer(client, project[11], "happy").json() == {"stored": 1, "labelled": 1}
    assert answer(client, project[11], "happy").json() == {"stored": 0, "labelled": 1}
    assert names(client)[0] == "clip10"
    name, label, reviewer, time, seconds, digest = paths.VERDICTS.read_text().splitlines()[1].split(",")
    assert (name, label, reviewer, seconds, digest) == ("clip11", "happy", "me", "1.5", project[11].digest)
    assert time.endswith("+00:00")
    progress = client.get("/api/next", params={"count": 0}).json()["progress"]
    assert progress == {"clips": 12, "answered": 1}
    shown = client.get("/api/clip/clip11").json()
    assert shown["mine"] == "happy"


def test_an_unsure_clip_comes_again_after_all_others(client: TestClient, project: list[Clip]) -> None:
    for clip in project[1:]:
        answer(client, clip, "unsure" if clip.clip_id == "clip05" else "sad")
    assert names(client) == ["clip00", "clip05"]


def test_a_changed_clip_is_asked_again(client: TestClient, project: list[Clip]) -> None:
    content = {"name": "clip11", "label": "sad", "seconds": 1, "digest": "0" * 64}
    assert send(client, "/api/verdict", content).status_code == 200
    assert names(client)[0] == "clip11"
    assert client.get("/api/clip/clip11").json()["outdated"] is True


def test_reviewers_are_blind_to_each_other_unless_told(client: TestClient, project: list[Clip]) -> None:
    answer(client, project[3], "sad")
    other = sign_in(make_client(reviewer="Ben"))
    assert other.get("/api/clip/clip03").json()["others"] == []
    told = sign_in(make_client(reviewer="Ben", show_others=True))
    assert told.get("/api/clip/clip03").json()["others"] == [{"reviewer": "me", "label": "sad"}]
    answer(other, project[3], "happy")
    assert names(client, kind="reviewers") == []  # it has answered the only one
    third = sign_in(make_client(reviewer="Cem"))
    assert names(third, kind="reviewers") == ["clip03"]


def test_the_page_can_change_the_reviewer(client: TestClient, project: list[Clip]) -> None:
    assert send(client, "/api/reviewer", {"name": " Ann\u0000a  \n B. "}).json() == {"reviewer": "Ann a B."}
    answer(client, project[0], "sad")
    assert ",Ann a B.," in paths.VERDICTS.read_text()
    assert send(client, "/api/reviewer", {"name": "  "}).status_code == 400


def test_a_link_of_the_report_opens_its_clip(client: TestClient) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    opened = client.get("/", params={"clip": "clip07"}, headers=link)
    assert 'content="0;url=/?clip=clip07"' in opened.text  # asks again, with the cookie
    assert "state" not in opened.text
    assert "<script" not in client.get("/", params={"clip": '"><script>'}, headers=link).text
    assert client.get("/", headers=link).status_code == 403
    assert client.get("/", params={"clip": "clip07"}, headers={**link, "sec-fetch-dest": "iframe"}).status_code == 403
    page = client.get("/", params={"clip": "clip07"}).text
    assert json.loads(page.split('id="state">')[1].split("</script>")[0])["clips"][0]["name"] == "clip07"
    assert client.get("/", params={"clip": "no clip"}).status_code == 409


def test_texts_are_escaped(client: TestClient) -> None:
    page = client.get("/").text
    assert "<b>" not in page
    assert "\\u003cb\\u003e" in page


def test_the_page_names_answers_and_keys(client: TestClient) -> None:
    shown = json.loads(client.get("/").text.split('id="state">')[1].split("</script>")[0])
    assert shown["keys"] == {
        "neutral": "1", "happy": "2", "sad": "3", "unsure": "u", "bad clip": "b", "no emotion": "n",
    }  # fmt: skip
    assert shown["neutral"] == "neutral"
    clip = shown["clips"][0]
    assert clip["why"].startswith("The given label is probably right.")
    assert clip["posterior"][0][0] == "neutral"
    assert clip["votes"] == [["fusion", "neutral", clip["posterior"][0][1]]]


def test_more_than_ten_labels_have_letters_as_keys() -> None:
    keys = label_keys([f"label{number}" for number in range(31)])
    assert list(keys.values())[8:12] == ["9", "0", "a", "c"]
    assert len(set(keys.values())) == len(keys) == 29
    assert not set(keys.values()) & set("bnrsuvz")


def test_recognised_words_are_shown_with_their_times(make_project: Callable[..., list[Clip]]) -> None:
    clips = make_project()
    write_corpus_tables(Corpus([replace(clip, transcript="") for clip in clips], list(LABELS), [], synthetic=False))
    write_transcripts(paths.TRANSCRIPTS, {clips[0].clip_id: Transcript("Hello there.", Verdict.USED, language="en")})
    words = (("Hello", 0.1, 0.3, 0.9), ("there.", 0.3, 0.6, 0.8))
    record = TranscriptRecord(
        clips[0].digest,
        "en",
        0.9,
        (Utterance("Hello there.", words, -0.2, 0.1, 1.0, -20.0), Utterance("Not used.", (), -2.0, 0.9, 1.0, -60.0)),
    )
    cache = AnswerCache(
        paths.TRANSCRIPT_CACHE, fingerprint(load_params().transcribe.settings()), TranscriptRecord.parse
    )
    with AnswerWriter(cache, Path("spool")) as writer:
        writer.append([record])
    client = sign_in(make_client())
    shown = client.get("/api/clip/clip00").json()
    assert (shown["transcript"], shown["words_from"], shown["language"]) == ("Hello there.", "machine", "en")
    assert client.get("/api/words/clip00").json() == [["Hello", 0.1, 0.3], ["there.", 0.3, 0.6]]
    assert client.get("/api/words/clip01").json() == []


# Media


def test_media_are_served_in_ranges(client: TestClient) -> None:
    content = Path("corpus/2.mp4").read_bytes()
    whole = client.get("/media/clip02")
    assert (whole.content, whole.headers["content-type"]) == (content, "video/mp4")
    part = client.get("/media/clip02", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"


@pytest.mark.parametrize(
    "name", ["../params.yaml", "%2e%2e%2fparams.yaml", "nobody", "/etc/passwd", "clip02%2f..%2fclip03"]
)
def test_only_clips_of_the_manifest_are_served(client: TestClient, name: str) -> None:
    response = client.get(f"/media/{name}")
    assert response.status_code in {404, 409}
    assert "corpus:" not in response.text


def test_a_manifest_that_names_a_file_elsewhere_serves_nothing(project: list[Clip]) -> None:
    Path("secret.mp4").write_bytes(Path("corpus/0.mp4").read_bytes())
    text = paths.MANIFEST.read_text().replace("clip00,0.mp4", "clip00,../secret.mp4")
    paths.MANIFEST.write_text(text)
    client = sign_in(make_client())
    assert client.get("/media/clip00").status_code == 404


def test_a_clip_that_was_moved_or_changed_is_explained(client: TestClient) -> None:
    Path("corpus/1.mp4").rename("corpus/elsewhere.mp4")
    with Path("corpus/2.mp4").open("ab") as file:
        file.write(b"more")
    gone, changed = client.get("/media/clip01"), client.get("/media/clip02")
    assert (gone.status_code, changed.status_code) == (404, 404)
    assert "corpus.root" in gone.json()["problem"]
    assert "ecmf-pipe index" in changed.json()["problem"]


def test_the_cache_of_encoded_clips_is_bounded(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(bytes(100))
        os.utime(path, (number, number))
    (tmp_path / ".old.mp4").write_bytes(bytes(100))
    os.utime(tmp_path / ".old.mp4", (0, 0))
    shrink(tmp_path, 250, keep=tmp_path / "0.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.mp4", "4.mp4"]


def test_a_span_is_chosen_by_the_page_unless_the_copy_holds_it_only(make_project: Callable[..., list[Clip]]) -> None:
    clips = make_project()
    spans = [replace(clip, start=0.1, end=0.3) for clip in clips[:2]]
    Path("corpus/1.mp4").rename("corpus/1.mov")  # not known to be playable everywhere
    spans[1] = replace(spans[1], path="1.mov")
    write_corpus_tables(Corpus(spans, list(LABELS), [], synthetic=False))
    client = sign_in(make_client())
    shown = [client.get(f"/api/clip/{name}").json() for name in ("clip00", "clip01")]
    assert [(clip["start"], clip["end"]) for clip in shown] == [(0.1, 0.3), (0.0, 0.0)]
    assert client.get("/media/clip00").content == Path("corpus/0.mp4").read_bytes()
    copy = client.get("/media/clip01")
    assert (copy.status_code, copy.headers["content-type"]) == (200, "video/mp4")


def test_copies_that_were_removed_are_encoded_again(make_project: Callable[..., list[Clip]]) -> None:
    clips = make_project()
    Path("corpus/1.mp4").rename("corpus/1.mov")
    write_corpus_tables(
        Corpus(
            [replace(clip, path=clip.path.replace("1.mp4", "1.mov")) for clip in clips],
            list(LABELS),
            [],
            synthetic=False,
        )
    )
    Path("corpus/11.mp4").rename("corpus/11.mov")
    client = sign_in(make_client())
    assert [client.get("/media/clip01").status_code for _ in range(2)] == [200, 200]
    shutil.rmtree("data/.review")
    assert client.get("/media/clip01").status_code == 200
    assert answer(client, clips[0], "sad").status_code == 200


@pytest.mark.parametrize("path", ["/media/clip01", "/faces/clip01", "/faces/clip01/strip.jpg", "/api/effect"])
def test_a_worker_that_crashes_is_explained_and_the_job_is_repeated(
    client: TestClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise BrokenProcessPool

    calls: list[object] = []

    def count(*_: object) -> None:
        calls.append(None)
        raise InputError("again")

    Path("corpus/1.mp4").write_bytes(b"")
    for name in ("encode_clip", "cut_faces", "estimate_effect"):
        monkeypatch.setattr(f"ecmf_pipeline.review.app.{name}", crash)
    monkeypatch.setattr("ecmf_pipeline.review.app.find_playable", lambda *_: None)
    response = client.get(path)
    assert response.status_code == 404
    assert "crashed" in response.json()["problem"]
    for name in ("encode_clip", "cut_faces", "estimate_effect"):
        monkeypatch.setattr(f"ecmf_pipeline.review.app.{name}", count)
    assert client.get(path).status_code == 409
    assert len(calls) == 1


# Access


def test_the_token_is_exchanged_for_a_strict_cookie(project: list[Clip]) -> None:
    client = make_client()
    assert client.get("/").status_code == 403
    assert client.get("/", params={"token": "x" * 43}).status_code == 403
    response = client.get("/", params={"token": client.access.token})
    assert 'content="0;url=/"' in response.text  # a redirect would lack the cookie after a link on another site
    assert response.headers["cache-control"] == "no-store"
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "no-referrer"


def test_the_cookie_outlives_the_server_and_the_secret_is_private(project: list[Clip]) -> None:
    path = Path("data/.review/secret")
    assert read_secret(path) == read_secret(path)
    assert path.stat().st_mode & 0o077 == 0
    assert Path("data/.review/.gitignore").read_text() == "*\n"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"x-review-token": ""},
        {"x-review-token": "guess"},
        {"content-type": "text/plain"},
    ],
)
def test_writes_of_other_sites_are_rejected(client: TestClient, project: list[Clip], headers: dict[str, str]) -> None:
    assert answer(client, project[0], "sad", **headers).status_code in {403, 415}
    assert not paths.VERDICTS.exists()


@pytest.mark.parametrize("host", ["evil.example:8350", "evil.example", "127.0.0.1", "127.0.0.1:9999", ""])
def test_a_name_that_resolves_here_is_rejected(client: TestClient, host: str) -> None:
    assert client.get("/api/next", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8350", "127.0.0.1:8350", "[::1]:8350"])
def test_names_of_this_machine_are_accepted(client: TestClient, host: str) -> None:
    assert client.access.knows_host(host)


@pytest.mark.parametrize(
    "path", ["/", "/progress", "/api/next", "/api/clip/clip00", "/media/clip00", "/faces/clip00", "/api/effect"]
)
def test_nothing_is_shown_without_the_cookie(project: list[Clip], path: str) -> None:
    response = make_client().get(path)
    assert response.status_code == 403
    assert "clip0" not in response.text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        '{"name": "clip00"}',
        '{"name":"clip00","label":"glad","seconds":1,"digest":""}',
        '{"name":"other","label":"sad","seconds":1,"digest":""}',
        '{"name":"clip00","label":"sad","seconds":-1,"digest":""}',
        '{"name":"clip00","label":"sad","seconds":1,"digest":"../x"}',
        "x" * 30_000,
    ],
)
def test_senseless_answers_are_rejected(client: TestClient, content: str) -> None:
    assert send(client, "/api/verdict", content).status_code in {400, 413, 422}  # the page drops these
    assert not paths.VERDICTS.exists()


def test_another_host_needs_the_password(project: list[Clip]) -> None:
    client = make_client(host="0.0.0.0", password="correct horse")
    assert (client.get("/").status_code, client.get("/").headers["location"]) == (303, "/login")
    assert client.get("/", params={"token": client.access.token}).status_code == 303
    assert client.get("/api/next").status_code == 403
    form = {"name": "Anna", "password": "wrong"}
    assert client.post("/login", data=form, headers={"origin": ORIGIN}).status_code == 200
    form["password"] = "correct horse"
    assert client.post("/login", data=form, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/login", data=form, headers={"origin": ORIGIN}).status_code == 303
    assert client.get("/api/next").status_code == 200
    assert "Anna" in client.get("/").text
    assert client.access.knows_host("192.168.1.7:8350")
    assert not client.access.knows_host("evil.example:8350")


def test_one_machine_that_tries_passwords_does_not_hold_up_others(
    project: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client_network("10.0.0.1") != client_network("10.0.0.2")
    assert client_network("fe80::1") == client_network("fe80::2%eth0") != client_network("fe81::1")
    app = ReviewApp(
        Project(Path("corpus"), paths.VERDICTS, InlineWorkers()),
        Access(b"s" * 32, "0.0.0.0", 8350, "correct horse"),
        Options("me"),
        InlineWorkers(),
    )

    def check(host: str, password: str) -> asyncio.Task[bool]:
        return asyncio.create_task(app._check_password(Request({"type": "http", "client": (host, 1)}), password))

    async def attempt() -> list[bool]:
        guesses = [check("10.0.0.1", "wrong") for _ in range(2)]
        await asyncio.sleep(0.01)
        assert await asyncio.wait_for(check("10.0.0.2", "correct horse"), 0.5)
        assert not any(guess.done() for guess in guesses)
        await guesses[0]
        assert not guesses[1].done()
        return [await guess for guess in guesses]

    monkeypatch.setattr("ecmf_pipeline.review.security._FAILED_LOGIN_SECONDS", 0.1)
    assert asyncio.run(attempt()) == [False, False]


def test_a_name_of_a_reviewer_is_one_line() -> None:
    assert clean_reviewer("  a\n\u202eb\t" + "x" * 100).startswith("a b x")
    assert len(clean_reviewer("x" * 100)) == 60


# Bad input


def test_without_refined_labels_the_clips_come_in_their_order(make_project: Callable[..., list[Clip]]) -> None:
    make_project(refined=False)
    client = sign_in(make_client())
    found = client.get("/api/next", params={"count": 2}).json()
    assert [clip["name"] for clip in found["clips"]] == ["clip00", "clip01"]
    assert "ecmf-pipe refine" in found["problem"]
    assert found["clips"][0]["why"] == "The models have not judged this clip yet."


def test_odd_names_and_labels_are_shown_and_stored(make_project: Callable[..., list[Clip]]) -> None:
    labels = ('say "no", then', "حزين", "=happy", "unsure")
    clips = make_project(["=a", 'b "quoted", c', "片段 #1?"], labels=labels)
    client = sign_in(make_client())
    for clip in clips:
        assert (
            client.get("/api/clip/" + clip.clip_id.replace("#", "%23").replace("?", "%3f")).json()["name"]
            == clip.clip_id
        )
        assert answer(client, clip, labels[1]).json()["stored"] == 1
    assert answer(client, clips[0], "no emotion").json() == {"stored": 1, "labelled": 2}
    stored = Project(Path("corpus"), paths.VERDICTS, InlineWorkers()).answers()
    assert [(key[0], one.label) for key, one in stored.items()] == [
        (clips[1].clip_id, labels[1]),
        (clips[2].clip_id, labels[1]),
        ("=a", "no emotion"),
    ]


def test_a_broken_file_of_answers_is_explained_and_kept(client: TestClient, project: list[Clip]) -> None:
    paths.VERDICTS.parent.mkdir()
    paths.VERDICTS.write_text("name,label\nclip00,glad\n")
    response = answer(client, project[0], "sad")
    assert response.status_code == 409
    assert "row 2" in response.json()["problem"]
    assert paths.VERDICTS.read_text() == "name,label\nclip00,glad\n"
    assert client.get("/").status_code == 409
    assert "row 2" in client.get("/").text


def test_new_refined_labels_are_used_without_a_restart(client: TestClient) -> None:
    assert names(client)[0] == "clip11"
    write_atomic(paths.NEXT, paths.NEXT.read_text().replace("clip11", "clip03"))
    assert names(client)[0] == "clip03"


def test_new_labels_of_the_corpus_are_used_without_a_restart(client: TestClient, project: list[Clip]) -> None:
    assert answer(client, project[0], "sad").status_code == 200
    write_corpus_tables(Corpus(project, [*LABELS, "calm"], [], synthetic=False))
    assert client.get("/api/next").status_code == 200
    assert answer(client, project[1], "calm").status_code == 200
    with paths.VERDICTS.open("a") as file:  # by another server
        file.write("clip02,calm,other,,,\n")
    assert client.get("/api/next").json()["labelled"] == 3
    write_corpus_tables(Corpus(project, list(LABELS), [], synthetic=False))
    assert "'calm'" in client.get("/api/next").json()["problem"]


def test_a_damaged_table_is_explained(project: list[Clip]) -> None:
    paths.REFINED.write_text("clip_id\n")
    catalog = load_catalog()
    assert "ecmf-pipe refine" in catalog.problem
    client = sign_in(make_client())
    assert names(client) == ["clip00", "clip01", "clip02", "clip03", "clip04"]
