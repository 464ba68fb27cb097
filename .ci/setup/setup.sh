#!/usr/bin/env bash
# Sets the project up in .venv: locked packages, Horovod, Delta's jars, Spark's settings, the project itself.
# Every step leaves a stamp with the key of its inputs once it is complete; a later call redoes only what has another key.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

VENV=$PWD/.venv
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/m2grl
export PYTHON=${PYTHON:-python3.11}
# A shell that has sourced .venv/m2grl.env must not make the environment from itself.
export PATH=${PATH//"$VENV/bin:"/}

step() { # NAME KEY COMMAND...
  local stamp=$VENV/.stamps/$1 key=$2
  [ "$(cat "$stamp" 2> /dev/null)" != "$key" ] || return 0
  rm -f "$stamp"
  "${@:3}"
  mkdir -p "$VENV/.stamps"
  echo "$key" > "$stamp"
}

hash_of() { cat "$@" | sha256sum | cut -c1-16; }

pip_locked() { "$VENV/bin/python" -m pip install --quiet --no-deps --no-build-isolation --require-hashes "$@"; }

# From scratch, so that nothing of an older lock file or of an installation cut short stays behind.
install_packages() {
  echo "Installing the locked packages into .venv (7 GB, of which PyTorch with its CUDA libraries takes most)"
  "$PYTHON" -m venv --clear "$VENV"
  # What comes as source is built with the locked tools, not with those that the index has today.
  pip_locked -r <(awk '/^[a-z]/ { tool = /^(setuptools|wheel|packaging)==/ } tool' requirements.lock)
  pip_locked -r requirements.lock
}

install_project() { "$VENV/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable .; }

write_spark_conf() { # FOLDER OF DELTA'S JARS
  mkdir -p "$VENV/spark-conf"
  cp .ci/setup/spark/* "$VENV/spark-conf/"
  echo "spark.jars $(printf '%s\n' "$1"/*.jar | paste -sd,)" >> "$VENV/spark-conf/spark-defaults.conf"
}

write_env() {
  cat > "$VENV/m2grl.env" << END
# Written by set-up. After \`source .venv/m2grl.env\` spark-submit, horovodrun and python are the project's.
export PATH="$VENV/bin:\$PATH"
export SPARK_CONF_DIR="$VENV/spark-conf"
export PYSPARK_PYTHON="$VENV/bin/python"
# Another Spark's or shell's settings would win over these; BASH_ENV is how the Makefile came here.
unset SPARK_HOME PYSPARK_DRIVER_PYTHON BASH_ENV
END
}

.ci/setup/check.sh
step packages "$(hash_of requirements.lock) $("$PYTHON" --version) $VENV" install_packages
.ci/setup/horovod.sh "$VENV" "$CACHE"
jars=$(.ci/setup/delta.sh "$VENV" "$CACHE")
step spark-conf "$(hash_of .ci/setup/setup.sh .ci/setup/spark/*) $jars" write_spark_conf "$jars"
step env "$(hash_of .ci/setup/setup.sh)" write_env
step project "$(hash_of pyproject.toml)" install_project
