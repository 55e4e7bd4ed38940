"""Read pictures and audio from video files."""
