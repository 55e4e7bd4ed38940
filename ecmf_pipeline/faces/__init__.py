"""Faces: found in the video or cut already; the main one is followed through the clip."""
