#!/bin/sh
# MediaPipe, OpenCV and LightGBM load a few system libraries that Python wheels do not bring. Install what is missing
# where that is possible without asking (root, apt), else say what to install.
set -eu
python=${1:-python3}
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
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing system libraries: $missing"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
else
    echo "system libraries are missing; install them first: sudo apt-get install $missing" >&2
    exit 1
fi
