#!/bin/sh
# MediaPipe, OpenCV and LightGBM load system libraries that Python wheels do not contain. Install missing ones as root
# with apt-get; otherwise print the command that installs them. With --browser, install Chromium instead, which the
# tests of the review page drive.
set -eu
python=${1:-python3}
if [ "$python" = --browser ]; then
    command -v chromium >/dev/null || command -v google-chrome >/dev/null && exit 0
    missing=chromium
else
missing=$("$python" - <<'PY'
import ctypes

needed = {
    "libgomp.so.1": "libgomp1",
    "libEGL.so.1": "libegl1",
    "libGLESv2.so.2": "libgles2",
    "libGL.so.1": "libgl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
}


def is_missing(name):
    try:
        ctypes.CDLL(name)
    except OSError:
        return True
    return False


print(" ".join(package for library, package in needed.items() if is_missing(library)))
PY
)
fi
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing: $missing"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
else
    printf 'error: system packages are missing: %s\nhint: install them\n  sudo apt-get install %s\n' "$missing" "$missing" >&2
    exit 1
fi
