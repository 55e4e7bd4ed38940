"""Exchange data with other tools of the field: feature files, submissions and label files."""
