#!/usr/bin/env bash
# Builds Horovod from its sdist against the torch of the virtual environment and installs it there.
# The wheel is kept in the user's cache folder under a key of everything it was built from, so it is built once a machine.
set -euo pipefail

HOROVOD_VERSION=0.28.1
VENV=${1:?usage: horovod.sh VENV}
PYTHON=$VENV/bin/python

# With NCCL for GPU nodes: HOROVOD_GPU_OPERATIONS=NCCL in the environment of `make setup`.
export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1

inputs() {
  "$PYTHON" -c 'import platform, sys, torch; print(sys.version_info[:2], torch.__version__, platform.machine(), *platform.libc_ver())'
  c++ --version | head -n 1
  env | grep '^HOROVOD_' | sort
  cat "${BASH_SOURCE[0]}"
}

key=$(inputs | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/m2grl/horovod-$HOROVOD_VERSION-$key
stamp=$VENV/.horovod-$key
[ -e "$stamp" ] && exit 0

if ! compgen -G "$cache/horovod-*.whl" > /dev/null; then
  echo "Building Horovod $HOROVOD_VERSION against the installed torch (once a machine, about three minutes on two cores)"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # The sdist's own setup.py is not asked for its dependencies: they stand in requirements.lock.
  "$PYTHON" -m pip download -q --no-deps --no-binary :all: --no-build-isolation -d "$work" "horovod==$HOROVOD_VERSION"
  tar -xzf "$work/horovod-$HOROVOD_VERSION.tar.gz" -C "$work"
  source=$work/horovod-$HOROVOD_VERSION
  # torch's headers ask for C++20; Horovod pins 14.
  sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 20)/' "$source/CMakeLists.txt" "$source/horovod/torch/CMakeLists.txt"
  if ! PATH="$VENV/bin:$PATH" MAKEFLAGS="-j$(nproc)" "$PYTHON" -m pip wheel -q --no-build-isolation --no-deps -w "$work/wheel" "$source" > "$work/build.log" 2>&1; then
    tail -n 60 "$work/build.log" >&2
    echo "Horovod did not build. Its last lines are above; it needs a C++20 compiler and the Python headers (apt-get install g++ python3.11-dev)." >&2
    exit 1
  fi
  mkdir -p "$cache.part"
  cp "$work"/wheel/horovod-*.whl "$cache.part/"
  rm -rf "$cache" && mv "$cache.part" "$cache"
fi
"$PYTHON" -m pip install -q --no-deps --force-reinstall "$cache"/horovod-*.whl
touch "$stamp"
