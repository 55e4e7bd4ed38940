"""Read frames and audio from video files."""
