#!/usr/bin/env bash
# Names everything that set-up needs and cannot install itself, each with the command that installs it. Exits with 1 if any is missing.
set -uo pipefail

PYTHON=${PYTHON:-python3.11}
JAVA=${JAVA_HOME:+$JAVA_HOME/bin/}java
complete=yes

missing() { # WHAT COMMAND
  printf 'Missing: %s\n    %s\n' "$1" "$2" >&2
  complete=no
}

python_says() { "$PYTHON" -c "$1" 2> /dev/null; }

check_python() {
  local version
  if ! version=$(python_says 'import sys; print("%d.%d" % sys.version_info[:2])') || [ "$version" != 3.11 ]; then
    missing "Python 3.11 ($PYTHON is ${version:-not there})" \
      "apt-get install python3.11 python3.11-venv python3.11-dev   (or name another one: make PYTHON=/path/to/python3.11)"
    return
  fi
  python_says 'import venv, ensurepip' || missing "the venv module of $PYTHON" "apt-get install python3.11-venv"
  python_says 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' ||
    missing "the C headers of $PYTHON (Python.h)" "apt-get install python3.11-dev"
}

check_java() {
  local version
  version=$("$JAVA" -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java\.specification\.version = \(1\.\)\?\([0-9]*\).*/\2/p')
  [ "${version:-0}" -ge 17 ] ||
    missing "Java 17 or later ($JAVA is ${version:-not there})" "apt-get install openjdk-17-jre-headless   (and let JAVA_HOME name it, or nothing)"
}

check_compiler() {
  c++ -std=c++20 -fsyntax-only -x c++ -include string /dev/null 2> /dev/null ||
    missing "a C++20 compiler and its standard library (c++)" "apt-get install g++"
}

check_python
check_java
check_compiler
[ "$complete" = yes ] || { echo "Nothing was set up. Install the above, then call make again." >&2; exit 1; }
