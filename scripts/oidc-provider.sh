#!/usr/bin/env bash
# oidc-provider.sh: installs the issuer of tests/peers/test_oidc.py (npm's oidc-provider, versions and hashes in its lock
# file) into .peers/oidc-provider. A second run takes no time.
# Where Node or npm is missing or too old it says so, and the tests say so too. With CI set, that is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
source=tests/peers/oidc_provider target=.peers/oidc-provider

! cmp -s "$source/package-lock.json" "$target/.installed" || exit 0
give_up() { echo "oidc-provider.sh: $1, so the tests with a real issuer of tokens are skipped" >&2; [ -z "${CI:-}" ]; exit; }

command -v node >/dev/null && command -v npm >/dev/null || give_up "node or npm is missing"
[ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] || give_up "oidc-provider needs Node 20, this is $(node --version)"

echo "Installing oidc-provider into $target"
rm -rf "$target"
mkdir -p "$target"
cp "$source/package.json" "$source/package-lock.json" "$target"
npm ci --prefix "$target" --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null >/dev/null ||
  give_up "npm cannot install it"
cp "$source/package-lock.json" "$target/.installed"
