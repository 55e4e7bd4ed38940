"""Starting the review page: hosts, ports, missing inputs; and finding single rows of large tables."""

from __future__ import annotations

import csv
import socket
from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.review import serve
from ecmf_pipeline.review.rows import RowFile
from ecmf_pipeline.review.security import PASSWORD, is_loopback


def start(host: str = "127.0.0.1", port: int | None = 0) -> None:
    serve.run(host=host, port=port, reviewer="", show_others=False, open_browser=False)


def test_another_host_without_a_password_is_refused(project: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)
    with pytest.raises(InputError) as caught:
        start("0.0.0.0")
    assert PASSWORD in str(caught.value.command)


def test_a_password_that_no_browser_can_send_is_refused(project: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "\udcff")
    with pytest.raises(InputError, match=PASSWORD):
        start("0.0.0.0")


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("x.org", False)]
)
def test_loopback_hosts(host: str, local: bool) -> None:
    assert is_loopback(host) == local


def test_a_port_in_use_is_an_error_only_if_it_was_asked_for(
    project: list[Clip], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        used = other.getsockname()[1]
        with pytest.raises(InputError) as caught:
            start(port=used)
        assert caught.value.command == "ecmf-pipe review --port 0"
        monkeypatch.setattr(serve, "DEFAULT_PORT", used)
        with serve._listen("127.0.0.1", None) as listener:
            assert listener.getsockname()[1] not in {0, used}
    assert str(used) in capsys.readouterr().err


def test_a_project_without_manifest_names_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("corpus: {kind: folder, root: corpus}\n")
    with pytest.raises(MissingInput) as caught:
        start()
    assert caught.value.command == "ecmf-pipe index"


def test_a_broken_file_of_answers_is_an_error_at_the_start(project: list[Clip]) -> None:
    paths.VERDICTS.parent.mkdir()
    paths.VERDICTS.write_text("name,label\nclip00,glad\n")
    with pytest.raises(InputError, match="row 2"):
        start()


def test_rows_are_found_by_their_id(tmp_path: Path) -> None:
    names = sorted(["=a", 'b "quoted", c', "b", "bb", "片段", "z", "Z", "clip,1", "clip"])
    path = tmp_path / "table.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [["clip_id", "text"], *([name, f"{name}\u2028,"] for name in names)]
        )
    table = RowFile(path, "ecmf-pipe index")
    assert [table.find(name) for name in names] == [{"clip_id": name, "text": f"{name}\u2028,"} for name in names]
    assert [table.find(name) for name in ("", "a", "clip,", "zz")] == [None] * 4
    assert table.keys() == names
    assert [row["clip_id"] for row in table.first(2)] == names[:2]


def test_a_table_that_an_editor_shortens_does_not_end_the_server(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("clip_id,text\n" + "".join(f"{number:06},x\n" for number in range(10_000)))
    table = RowFile(path, "ecmf-pipe index")
    path.write_text("")
    assert table.find("009999") == {"clip_id": "009999", "text": "x"}


def test_a_damaged_row_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("clip_id,text\na\n")
    with pytest.raises(InputError, match="1 cells instead of 2"):
        RowFile(path, "ecmf-pipe index").find("a")
    path.write_text("")
    with pytest.raises(InputError, match="is empty"):
        RowFile(path, "ecmf-pipe index")
