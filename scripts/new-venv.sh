#!/usr/bin/env bash
# new-venv.sh PYTHON FOLDER: makes a virtual environment, or says what this machine lacks for one.
set -euo pipefail
python=$1 venv=$2

command -v "$python" >/dev/null || {
  echo "Mailroot needs Python 3.11 or later, and there is no '$python' here." >&2
  echo "Install it, or name another: make PYTHON=/path/to/python3.12" >&2
  exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "Mailroot needs Python 3.11 or later; '$python' is $("$python" -V 2>&1)." >&2
  echo "Name another: make PYTHON=/path/to/python3.12" >&2
  exit 1
}
# Debian and its kin ship Python without these two.
"$python" -c 'import ensurepip, venv' 2>/dev/null || {
  echo "'$python' cannot make virtual environments here: its modules venv and ensurepip are missing." >&2
  echo "On Debian and Ubuntu: apt-get install python3-venv" >&2
  exit 1
}
echo "Creating the virtual environment $venv"
rm -rf "$venv"
"$python" -m venv "$venv"
