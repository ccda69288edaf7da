#!/bin/bash
# Runs the tests of the crates that hold unsafe code under AddressSanitizer, and their property tests for longer.
# The compiler's own sanitizer runtime is needed; a distribution's Rust may come without it, which is said.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo=${CARGO:-cargo}
host=$(rustc -vV | sed -n 's/^host: //p')
library="$(rustc --print sysroot)/lib/rustlib/$host/lib"
if ! compgen -G "$library/librustc*_rt.asan.a" >/dev/null; then
    echo "SKIP test-deep: this Rust has no AddressSanitizer runtime in $library; rustup's toolchains do"
    exit 0
fi
seconds=${DEEP_SECONDS:-20}
echo "AddressSanitizer: vrouter-vhost and vrouter-dpdk; each property test runs for $seconds s"
# The sanitizer is a compiler option that stable Rust hides; nothing else unstable is used. LeakSanitizer would
# count what DPDK keeps for the life of the process.
RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0 \
    BOLERO_RANDOM_TEST_TIME_MS=$((seconds * 1000)) BOLERO_RANDOM_ITERATIONS=1000000000 \
    CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/asan" \
    "$cargo" test --locked --target "$host" -p vrouter-vhost -p vrouter-dpdk --lib --tests
echo "test-deep passed"
