"""Contact sheets of faces."""

from __future__ import annotations

import cv2
import numpy as np

from ecmf_pipeline.faces.contact_sheet import CROP_SIDE, FaceShot, draw_sheet, jpeg, mark_face


def make_shots(count: int) -> list[FaceShot]:
    return [FaceShot(np.full((50, 50, 3), (10 * number, 0, 200), np.uint8), f"{number} s") for number in range(count)]


def test_all_crops_are_drawn_in_order():
    sheet = draw_sheet(make_shots(11))
    cell_width, cell_height = sheet.shape[1] // 8, sheet.shape[0] // 2
    for number in range(11):
        x, y = number % 8 * cell_width + 50, number // 8 * cell_height + 50
        assert sheet[y, x].tolist() == [10 * number, 0, 200]
    x, y = 5 * cell_width + 50, cell_height + 50
    assert len(np.unique(sheet[y, x : x + 200], axis=0)) == 1, "the cells after the last crop are not empty"


def test_frame_is_drawn_above_and_its_crop_has_a_border():
    frame = np.full((480, 640, 3), 40, np.uint8)
    marked = [FaceShot(make_shots(1)[0].crop, "0 s", 0.9, 0.5, is_framed=True)]
    with_frame, without = draw_sheet(marked, frame), draw_sheet(make_shots(1))
    assert with_frame.shape[0] > without.shape[0] + 200
    assert with_frame[100, 100].tolist() == [40, 40, 40]
    grid = with_frame[-without.shape[0] :]
    assert grid[0, 50].tolist() != without[0, 50].tolist()
    assert (grid[CROP_SIDE:, : without.shape[1]] != without[CROP_SIDE:]).any(), "score and quality are not drawn"


def test_box_is_drawn_into_a_copy_of_the_frame():
    frame = np.zeros((100, 100, 3), np.uint8)
    landmarks = np.full((6, 2), np.nan, np.float32)
    landmarks[0] = (40, 55)
    marked = mark_face(frame, (20, 30, 40, 50), landmarks)
    changed = np.argwhere(marked.any(axis=2))
    assert changed.min(axis=0).tolist() == [29, 19]
    assert changed.max(axis=0).tolist() == [81, 61]
    assert marked[55, 40].any()
    assert not frame.any()


def test_jpeg_is_deterministic_and_shows_the_sheet():
    sheet = draw_sheet(make_shots(3))
    assert jpeg(sheet) == jpeg(sheet.copy())
    decoded = cv2.imdecode(np.frombuffer(jpeg(sheet), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert decoded.shape == sheet.shape
    assert np.abs(decoded.astype(int) - sheet).mean() < 3
