#!/usr/bin/env bash
# debian-packages.sh SET...: installs what the tests use, on Debian and its kin, as root. Sets: base, tests, windows.
#
# Programs are installed. Servers are only unpacked, into .peers/NAME: installing them would start them and bind their
# well-known ports. What is there already is left alone, so a second run takes no time.
# Elsewhere, or without root, it says what is missing, and the tests that need it say so too. With CI set, that is an error.
set -euo pipefail
cd "$(dirname "$0")/.."

programs=() servers=()
for set in "$@"; do
  case $set in
    base) programs+=(python3 python3-venv) ;;
    tests)
      programs+=(curl swaks libnet-ssleay-perl gsasl libsasl2-modules msmtp telnet openssl mono-runtime mono-mcs gcc python3-dev libkrb5-dev krb5-user gss-ntlmssp libauthen-ntlm-perl)
      servers+=(postfix haproxy nsd krb5-kdc krb5-admin-server slapd)
      command -v npm >/dev/null || programs+=(nodejs npm) ;;  # it may have come from elsewhere
    windows) programs+=(wine wine64 gcc-mingw-w64-x86-64-win32) ;;
    *) echo "debian-packages.sh: no set named '$set'" >&2; exit 2 ;;
  esac
done

command -v dpkg-query >/dev/null || {
  echo "debian-packages.sh: this is not Debian; please install yourself: ${programs[*]} ${servers[*]}" >&2
  [ -z "${CI:-}" ]; exit
}

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=() packed=()
for name in ${programs[@]+"${programs[@]}"}; do installed "$name" || missing+=("$name"); done
for name in ${servers[@]+"${servers[@]}"}; do [ -e ".peers/$name/.unpacked" ] || packed+=("$name"); done
[ $((${#missing[@]} + ${#packed[@]})) -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
  echo "debian-packages.sh: not root, so these are not installed: ${missing[*]-} ${packed[*]-}" >&2
  [ -z "${CI:-}" ]; exit
fi

export DEBIAN_FRONTEND=noninteractive
install() { apt-get -qq install -y --no-install-recommends "$@" </dev/null >/dev/null; }

echo "Installing Debian packages: ${missing[*]-} ${packed[*]-}"
apt-get -qq update </dev/null || echo "debian-packages.sh: apt-get update failed; going on with the lists there are" >&2
failed=()
if [ ${#missing[@]} -gt 0 ] && ! install "${missing[@]}"; then
  for name in "${missing[@]}"; do install "$name" || failed+=("$name"); done  # one that fails does not take the others with it
fi

unpack() {  # a server, beside the system, with the libraries it needs from the system
  local libraries folder=.peers/$1
  rm -rf "$folder"
  mkdir -p "$folder"
  libraries=$(apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$1" |
    awk '/^ *Depends: lib/ {print $2}')
  # shellcheck disable=SC2086  # a list of words
  install $libraries &&
    (cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download "$1" </dev/null >/dev/null && dpkg -x "$1"_*.deb . && rm "$1"_*.deb) &&
    touch "$folder/.unpacked"
}
for name in ${packed[@]+"${packed[@]}"}; do unpack "$name" || failed+=("$name"); done

if [ ${#failed[@]} -gt 0 ]; then
  echo "debian-packages.sh: could not be installed: ${failed[*]}" >&2
  [ -z "${CI:-}" ]
fi
