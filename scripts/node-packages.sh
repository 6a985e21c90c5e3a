#!/usr/bin/env bash
# node-packages.sh: installs what tests/peers uses of npm's packages (oidc-provider, an issuer of tokens; nodemailer, a
# client) into .peers/node, with the versions and hashes of their lock file. A second run takes no time.
# Where Node or npm is missing or too old it says so, and the tests say so too. With CI set, that is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
source=tests/peers/node target=.peers/node

! cmp -s "$source/package-lock.json" "$target/.installed" || exit 0
give_up() { echo "node-packages.sh: $1; the tests that use npm's packages are skipped" >&2; [ -z "${CI:-}" ]; exit; }

command -v node >/dev/null && command -v npm >/dev/null || give_up "node or npm is missing"
[ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] || give_up "oidc-provider needs Node 20, and this is $(node --version)"

echo "Installing npm's packages into $target"
rm -rf "$target"
mkdir -p "$target"
cp "$source/package.json" "$source/package-lock.json" "$target"
npm ci --prefix "$target" --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null >/dev/null ||
  give_up "npm cannot install them"
cp "$source/package-lock.json" "$target/.installed"
