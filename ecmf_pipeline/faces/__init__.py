"""Faces: found in the video or cut already; the main one is followed through the clip."""

from ecmf_pipeline.faces.boxes import Box, Detection
from ecmf_pipeline.faces.config import CROP_MARGIN, OPENFACE, FaceConfig, are_cut_already
from ecmf_pipeline.faces.cropping import crop_level, crop_square, eye_angle
from ecmf_pipeline.faces.finder import FaceFinder, FaceTrack
from ecmf_pipeline.faces.openface import read_openface, read_openface_rows
from ecmf_pipeline.faces.tracking import main_track

__all__ = [
    "CROP_MARGIN",
    "OPENFACE",
    "Box",
    "Detection",
    "FaceConfig",
    "FaceFinder",
    "FaceTrack",
    "are_cut_already",
    "crop_level",
    "crop_square",
    "eye_angle",
    "main_track",
    "read_openface",
    "read_openface_rows",
]
