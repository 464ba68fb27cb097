#!/usr/bin/env bash
# Fetches Delta's jars once a machine with Spark's own resolver and prints the folder they lie in.
# Spark brings everything else that Delta needs, so only Delta's own jars are taken.
set -euo pipefail

VENV=${1:?usage: delta.sh VENV CACHE}
CACHE=${2:?usage: delta.sh VENV CACHE}
VERSION=4.4.0
COORDINATE=io.delta:delta-spark_4.2_2.13:$VERSION
SUMS=$(realpath "$(dirname "${BASH_SOURCE[0]}")")/delta.sha256

fetch() { # FOLDER; its `jars` holds the result
  echo pass > "$1/nothing.py"
  # Another home: Ivy also looks into the user's Maven repository and gives up on an artifact of which only the description is there.
  env -u SPARK_HOME SPARK_CONF_DIR="$1" PYSPARK_PYTHON="$VENV/bin/python" SPARK_SUBMIT_OPTS="-Duser.home=$1" "$VENV/bin/spark-submit" \
    --packages "$COORDINATE" --exclude-packages 'com.*:*,org.*:*,io.unitycatalog:*' --conf "spark.jars.ivy=$1" "$1/nothing.py" > "$1/fetch.log" 2>&1 ||
    { tail -n 40 "$1/fetch.log"; return 1; }
  whole "$1/jars"
}

whole() { (cd "$1" && sha256sum --quiet --strict --check "$SUMS"); }

jars=$CACHE/delta-$VERSION
if ! whole "$jars" > /dev/null 2>&1; then
  echo "Fetching Delta's jars (13 MB, once a machine)" >&2
  mkdir -p "$CACHE"
  work=$(mktemp -d "$CACHE/.delta-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  fetch "$work" >&2 ||
    { echo "Delta's jars ($COORDINATE) could not be had from Maven Central; why is said above. With a network, call make again." >&2; exit 1; }
  rm -rf "$jars"
  mv -T "$work/jars" "$jars"
fi
echo "$jars"
