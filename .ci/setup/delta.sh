#!/usr/bin/env bash
# Fetches Delta's jars once a machine with Spark's own resolver and prints the folder they lie in.
# Spark brings everything else that Delta needs, so only Delta's own jars are taken.
set -euo pipefail

VENV=${1:?usage: delta.sh VENV CACHE}
CACHE=${2:?usage: delta.sh VENV CACHE}
VERSION=4.4.0
COORDINATE=io.delta:delta-spark_4.2_2.13:$VERSION
SUMS=$(realpath "$(dirname "${BASH_SOURCE[0]}")")/delta.sha256

whole() { (cd "$1" && sha256sum --quiet --strict --check "$SUMS"); }

jars=$CACHE/delta-$VERSION
if ! whole "$jars" > /dev/null 2>&1; then
  echo "Fetching Delta's jars (13 MB, once a machine)" >&2
  mkdir -p "$CACHE"
  work=$(mktemp -d "$CACHE/.delta-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  "$(dirname "${BASH_SOURCE[0]}")/jars.sh" "$VENV" "$work/jars" "$COORDINATE" 'com.*:*,org.*:*,io.unitycatalog:*' >&2
  whole "$work/jars" >&2 || { echo "The jars of $COORDINATE are not those of delta.sha256." >&2; exit 1; }
  rm -rf "$jars"
  mv -T "$work/jars" "$jars"
fi
echo "$jars"
