#!/usr/bin/env bash
# Builds Horovod from its sdist against the torch of the virtual environment and installs it there.
# The wheel is kept in the cache folder under a key of everything it was built from, so it is built once a machine.
set -euo pipefail

VENV=${1:?usage: horovod.sh VENV CACHE}
CACHE=${2:?usage: horovod.sh VENV CACHE}
PYTHON=$VENV/bin/python
VERSION=0.28.1
SHA256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0

# With NCCL for GPU nodes: HOROVOD_GPU_OPERATIONS=NCCL in the environment of every make.
export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1

inputs() {
  # The installed version is read without importing torch, which takes seconds.
  "$PYTHON" -c 'import platform, sys; from importlib.metadata import version
print(sys.version_info[:2], version("torch"), platform.machine(), *platform.libc_ver())'
  c++ --version | head -n 1
  env | grep -E '^HOROVOD_(WITH|GPU|CPU|CUDA|NCCL|ALLOW)' | sort
  cat "${BASH_SOURCE[0]}"
}

build() { # FOLDER FOR THE WHEEL
  local source=$1/horovod-$VERSION
  # The sdist's own list of dependencies is not asked: they stand in requirements.lock.
  echo "horovod==$VERSION --hash=sha256:$SHA256" > "$1/requirements.txt"
  "$PYTHON" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --require-hashes -d "$1" -r "$1/requirements.txt"
  tar -xzf "$source.tar.gz" -C "$1"
  # torch's headers ask for C++20; Horovod pins 14.
  sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 20)/' "$source/CMakeLists.txt" "$source/horovod/torch/CMakeLists.txt"
  # Between hosts its last group of ranks forgets which network interface was chosen, and takes the address of the host's own name: 127.0.0.1 or so
  # on many a machine, where no other host can reach it.
  sed -i '/::InitializeForProcessSet/,$ s/iface = gloo_iface_;/iface = global_context.gloo_iface_;/' "$source/horovod/common/gloo/gloo_context.cc"
  if ! PATH="$VENV/bin:$PATH" MAKEFLAGS="-j$(nproc)" "$PYTHON" -m pip wheel --quiet --no-build-isolation --no-deps -w "$1/wheel" "$source" > "$1/build.log" 2>&1; then
    tail -n 60 "$1/build.log" >&2
    echo "Horovod $VERSION did not build against this torch; the last lines of its build are above." >&2
    return 1
  fi
}

key=$(inputs | sha256sum | cut -c1-16)
cached=$CACHE/horovod-$VERSION-$key
stamp=$VENV/.stamps/horovod-$key
[ ! -e "$stamp" ] || exit 0

if [ ! -d "$cached" ]; then
  echo "Building Horovod $VERSION against the installed torch (once a machine, about three minutes on two cores)"
  mkdir -p "$CACHE"
  work=$(mktemp -d "$CACHE/.horovod-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  build "$work"
  # In one move, so that a folder with the key is complete.
  mv -T "$work/wheel" "$cached"
fi
"$PYTHON" -m pip install --quiet --no-deps --force-reinstall "$cached"/horovod-*.whl
rm -f "$VENV"/.stamps/horovod-*
touch "$stamp"
