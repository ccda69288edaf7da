#!/usr/bin/env bash
# Checks for a Rust toolchain that is new enough. Debian 12's own rustc is too old; its security archive carries a newer one for
# building browsers (rustc-web), which is installed when there is no other.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)

new_enough() { # version
    [[ -n "$1" ]] && printf '%s\n%s\n' "$wanted" "$1" | sort --version-sort --check=quiet
}
installed() {
    { rustc --version 2>/dev/null || true; } | sed -n 's/^rustc \([0-9.]*\).*/\1/p'
}

have=$(cd "$root" && installed)
if new_enough "$have" && command -v cargo >/dev/null; then
    exit 0
fi

offered=$(apt-cache policy rustc-web 2>/dev/null | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p')
if ((EUID == 0)) && [[ -z "$have" ]] && new_enough "$offered"; then
    echo "setup: installing Rust $offered (rustc-web, cargo-web, rustfmt-web)"
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends rustc-web cargo-web rustfmt-web >/dev/null
    exit 0
fi

cat >&2 <<TEXT
setup: Rust $wanted or newer is needed, found: ${have:-none}.
  Either: apt-get install rustc-web cargo-web rustfmt-web   (Debian 12 with its security archive: ${offered:-not offered here})
  or:     install rustup, then: rustup toolchain install stable
TEXT
exit 1
