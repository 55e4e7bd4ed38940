"""The soak: a small extraction killed again and again, and what it made compared with that of an uninterrupted one."""
