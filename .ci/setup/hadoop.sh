#!/usr/bin/env bash
# Fetches what tests/cluster/check_hadoop.py needs once a machine: the jar with the servers of HDFS and YARN, of the version that Spark has
# the clients of, and what YARN's asks for beside it. Prints the variable that the test reads, for `eval`.
set -euo pipefail

VENV=${1:?usage: hadoop.sh VENV CACHE}
CACHE=${2:?usage: hadoop.sh VENV CACHE}
HADOOP=3.5.0
BOUNCYCASTLE=1.82
# Spark has these itself.
HAVE=org.apache.hadoop:hadoop-client-api,org.apache.hadoop:hadoop-client-runtime

jars=$CACHE/hadoop-servers-$HADOOP-$BOUNCYCASTLE
if [ ! -d "$jars" ]; then
  echo "Fetching Hadoop's servers (66 MB, once a machine)" >&2
  packages=org.apache.hadoop:hadoop-client-minicluster:$HADOOP,org.bouncycastle:bcpkix-jdk18on:$BOUNCYCASTLE
  "$(dirname "${BASH_SOURCE[0]}")/jars.sh" "$VENV" "$jars" "$packages" "$HAVE" >&2
fi
echo "export M2GRL_HADOOP_JARS='$jars'"
