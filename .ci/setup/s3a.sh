#!/usr/bin/env bash
# Fetches the jars of Hadoop's s3a once a machine with Spark's own resolver and prints the folder they lie in.
# Of Amazon's SDK only the modules that s3a uses are taken: their bundle, which hadoop-aws asks for, has 686 MB; all that is taken here, 13.
set -euo pipefail

VENV=${1:?usage: s3a.sh VENV CACHE}
CACHE=${2:?usage: s3a.sh VENV CACHE}
HADOOP=3.5.0
SDK=2.35.4
MODULES=(s3 s3-transfer-manager sts apache-client netty-nio-client)
# Spark has these itself.
HAVE='io.netty:*,org.apache.httpcomponents:*,org.slf4j:*,commons-codec:*,commons-logging:*'

jars=$CACHE/hadoop-aws-$HADOOP-$SDK
if [ ! -d "$jars" ]; then
  echo "Fetching the jars of s3a (13 MB, once a machine)" >&2
  packages=org.apache.hadoop:hadoop-aws:$HADOOP$(printf ",software.amazon.awssdk:%s:$SDK" "${MODULES[@]}")
  "$(dirname "${BASH_SOURCE[0]}")/jars.sh" "$VENV" "$jars" "$packages" "software.amazon.awssdk:bundle,$HAVE" >&2
fi
echo "$jars"
