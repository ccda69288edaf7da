#!/bin/bash
# What takes minutes: the crates with unsafe code under AddressSanitizer, the property tests under a fuzzer, the models of
# the hand-overs, and the pure crates under Miri. Each part is bounded; one that this Rust can't run is said to be skipped.
# DEEP_SECONDS: for each property test; DEEP_PARTS: "asan fuzz loom miri pods" or some of them; DEEP_PODS: for the last.
set -uo pipefail
cd "$(dirname "$0")/../.."

cargo=${CARGO:-cargo}
seconds=${DEEP_SECONDS:-3}
parts=${DEEP_PARTS:-loom asan miri fuzz pods}
pods=${DEEP_PODS:-400}
host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-target}
summary=()
failed=0

# run NAME COMMAND...: a command that ends within half an hour, building included.
run() {
    local name=$1 begun=$SECONDS
    shift
    echo "== $name"
    if timeout --kill-after=10 1800 "$@"; then
        summary+=("ok   $name ($((SECONDS - begun)) s)")
    else
        summary+=("FAIL $name ($((SECONDS - begun)) s)")
        failed=1
    fi
}

skip() { summary+=("SKIP $1: $2"); }

part_loom() {
    run "loom: hand-over of a queue" "$cargo" test --locked -p vrouter-vhost --test handover
    run "loom: a queue that moves" "$cargo" test --locked -p vrouter-vrouterd --test publication
}

# The sanitizer is a compiler option that stable Rust hides; nothing else unstable is used. LeakSanitizer would count what
# DPDK keeps for the life of the process.
part_asan() {
    local library
    library="$(rustc --print sysroot)/lib/rustlib/$host/lib"
    if ! compgen -G "$library/librustc*_rt.asan.a" >/dev/null; then
        skip asan "this Rust has no AddressSanitizer runtime in $library; rustup's toolchains do"
        return
    fi
    local asan=(env RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0
        BOLERO_RANDOM_TEST_TIME_MS=$((seconds * 1000)) BOLERO_RANDOM_ITERATIONS=1000000000
        CARGO_TARGET_DIR="$target/asan" "$cargo" test --locked --target "$host")
    # Not with tests/handover.rs: loom runs it on stacks of its own, which the sanitizer does not follow.
    run "AddressSanitizer: vrouter-vhost" "${asan[@]}" -p vrouter-vhost --lib
    run "AddressSanitizer: vrouter-dpdk" "${asan[@]}" -p vrouter-dpdk --lib --tests
}

# Miri is a thousand times slower: few inputs for each property test, and none of the tests that are made of millions of
# steps (whole tables) or of the operating system.
part_miri() {
    local toolchain=${MIRI_TOOLCHAIN:-nightly}
    if ! rustup run "$toolchain" cargo-miri miri --version >/dev/null 2>&1; then
        skip miri "no toolchain $toolchain with Miri (rustup toolchain install $toolchain --component miri,rust-src)"
        return
    fi
    local miri=(env MIRIFLAGS=-Zmiri-disable-isolation BOLERO_RANDOM_ITERATIONS=4 CARGO_TARGET_DIR="$target/miri"
        rustup run "$toolchain" cargo miri test --locked --lib)
    # 64 KiB cut into pieces of every size; 96,000 hashes; 2,000 frames made and hashed.
    local long=(-- --skip pieces_are_packets_that_make_up_the_whole --skip flows_spread
        --skip flows_have_a_port_of_their_own_and_fragments_stay_together)
    run "Miri: vrouter-net" "${miri[@]}" -p vrouter-net "${long[@]}"
    # pidfd_open(2), which Miri does not know.
    run "Miri: nri-plugin-proto" "${miri[@]}" -p nri-plugin-proto -- --skip runner::tests
}

part_fuzz() {
    run "libFuzzer: each property test for $seconds s" integration/setup/fuzz.sh "$seconds"
}

# On a machine that can't, the test says so itself.
part_pods() {
    run "$pods pods come and go" env RINGWAY_STORM_PODS="$pods" "$cargo" test --locked --workspace --test plugin -- storm
}

for part in $parts; do
    "part_$part"
done
echo "== summary"
printf '%s\n' "${summary[@]}"
exit $failed
