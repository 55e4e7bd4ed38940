"""Read pictures and sound from video files."""
