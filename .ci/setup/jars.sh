#!/usr/bin/env bash
# Fetches jars from Maven Central into a folder, whole or not at all, with Spark's own resolver.
set -euo pipefail

VENV=${1:?usage: jars.sh VENV FOLDER PACKAGES EXCLUDED}
FOLDER=${2:?usage: jars.sh VENV FOLDER PACKAGES EXCLUDED}
PACKAGES=${3:?usage: jars.sh VENV FOLDER PACKAGES EXCLUDED}
EXCLUDED=${4:?usage: jars.sh VENV FOLDER PACKAGES EXCLUDED}

mkdir -p "$(dirname "$FOLDER")"
ivy=$(mktemp -d "$(dirname "$FOLDER")/.jars-XXXXXX")
trap 'rm -rf "$ivy"' EXIT
echo pass > "$ivy/nothing.py"
# Another home: Ivy also looks into the user's Maven repository and gives up on an artifact of which only the description is there.
env -u SPARK_HOME SPARK_CONF_DIR="$ivy" PYSPARK_PYTHON="$VENV/bin/python" SPARK_SUBMIT_OPTS="-Duser.home=$ivy" "$VENV/bin/spark-submit" \
  --packages "$PACKAGES" --exclude-packages "$EXCLUDED" --conf "spark.jars.ivy=$ivy" "$ivy/nothing.py" > "$ivy/fetch.log" 2>&1 ||
  { tail -n 40 "$ivy/fetch.log" >&2; echo "$PACKAGES could not be had from Maven Central; why is said above. With a network, call make again." >&2; exit 1; }
mv -T "$ivy/jars" "$FOLDER"
