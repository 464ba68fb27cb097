#!/usr/bin/env bash
# Fetches what tests/cluster/check_s3.py needs once a machine: a server of the S3 protocol (Versity's gateway, built by go) and the jars of
# Hadoop's s3a. Prints the two variables that the test reads, for `eval`.
# Of Amazon's SDK only the modules that s3a uses are taken: their bundle, which hadoop-aws asks for, has 600 MB; these have 15.
set -euo pipefail

VENV=${1:?usage: s3.sh VENV CACHE}
CACHE=${2:?usage: s3.sh VENV CACHE}
GATEWAY=v1.8.0
HADOOP=3.5.0
SDK=2.35.4
MODULES=(s3 s3-transfer-manager sts apache-client netty-nio-client)
# Spark has these itself.
HAVE='io.netty:*,org.apache.httpcomponents:*,org.slf4j:*,commons-codec:*,commons-logging:*'

mkdir -p "$CACHE"
server=$CACHE/versitygw-$GATEWAY
if [ ! -x "$server" ]; then
  command -v go > /dev/null || { echo "Missing: Go, which builds the S3 server. apt-get install golang-go, or https://go.dev/dl" >&2; exit 1; }
  echo "Building the S3 server (once a machine, some minutes)" >&2
  work=$(mktemp -d "$CACHE/.versitygw-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  GOBIN=$work go install "github.com/versity/versitygw/cmd/versitygw@$GATEWAY" >&2
  mv "$work/versitygw" "$server"
fi

jars=$CACHE/hadoop-aws-$HADOOP-$SDK
if [ ! -d "$jars" ]; then
  echo "Fetching the jars of s3a (once a machine)" >&2
  ivy=$(mktemp -d "$CACHE/.hadoop-aws-XXXXXX")
  trap 'rm -rf "$ivy"' EXIT
  echo pass > "$ivy/nothing.py"
  packages=org.apache.hadoop:hadoop-aws:$HADOOP$(printf ",software.amazon.awssdk:%s:$SDK" "${MODULES[@]}")
  env -u SPARK_HOME SPARK_CONF_DIR="$ivy" PYSPARK_PYTHON="$VENV/bin/python" SPARK_SUBMIT_OPTS="-Duser.home=$ivy" "$VENV/bin/spark-submit" \
    --packages "$packages" --exclude-packages "software.amazon.awssdk:bundle,$HAVE" --conf "spark.jars.ivy=$ivy" "$ivy/nothing.py" > "$ivy/fetch.log" 2>&1 ||
    { tail -n 40 "$ivy/fetch.log" >&2; echo "The jars of s3a could not be had from Maven Central; why is said above." >&2; exit 1; }
  mv -T "$ivy/jars" "$jars"
fi
echo "export M2GRL_S3_SERVER='$server' M2GRL_S3_JARS='$jars'"
