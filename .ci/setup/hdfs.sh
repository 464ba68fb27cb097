#!/usr/bin/env bash
# Fetches what tests/cluster/check_hdfs.py needs once a machine: the jar with HDFS's own servers, of the version that Spark has the client
# of. Prints the variable that the test reads, for `eval`.
set -euo pipefail

VENV=${1:?usage: hdfs.sh VENV CACHE}
CACHE=${2:?usage: hdfs.sh VENV CACHE}
HADOOP=3.5.0
# Spark has these itself.
HAVE=org.apache.hadoop:hadoop-client-api,org.apache.hadoop:hadoop-client-runtime

jars=$CACHE/hadoop-hdfs-$HADOOP
if [ ! -d "$jars" ]; then
  echo "Fetching HDFS's servers (56 MB, once a machine)" >&2
  "$(dirname "${BASH_SOURCE[0]}")/jars.sh" "$VENV" "$jars" "org.apache.hadoop:hadoop-client-minicluster:$HADOOP" "$HAVE" >&2
fi
echo "export M2GRL_HDFS_JARS='$jars'"
