#!/bin/bash
# Runs the property tests under libFuzzer, which goes by what code an input reaches. Usage: fuzz.sh [SECONDS [PATTERN]]:
# each target whose name has PATTERN in it, for so long; `fuzz.sh 0` lists them.
#
# Inputs that reach something new go to target/fuzz/corpus/NAME, those that fail to __fuzz__/NAME/crashes beside the test,
# where `cargo test` finds them again.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-10}
pattern=${2:-}
cargo=${CARGO:-cargo}
host=$(rustc -vV | sed -n 's/^host: //p')
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz"
# Whatever is built like this needs the fuzzer's library, so only what has property tests can be.
libraries=(-p vrouter-net -p vrouter-core -p vrouter-vhost -p nri-plugin-core -p nri-plugin-proto --lib)
tests=(-p vrouter-net -p vrouter-core -p ringway-config --test any_frame --test differential --test any_text)

if ! command -v c++ >/dev/null; then
    echo "SKIP fuzz: libFuzzer is built from source, which takes a C++ compiler (apt-get install g++)"
    exit 0
fi
# What cargo-bolero would set. --target keeps it away from build scripts. No debugger's information: it is slow to link.
flags="--cfg fuzzing --cfg fuzzing_libfuzzer -Cpasses=sancov-module -Cdebug-assertions -Coverflow-checks -Cdebuginfo=0"
for option in inline-8bit-counters level=4 pc-table trace-compares; do
    flags+=" -Cllvm-args=-sanitizer-coverage-$option"
done
export RUSTFLAGS=$flags
mkdir -p "$target"
build() {
    "$cargo" test --locked --no-run --target "$host" --target-dir "$target" --message-format=json "$@" 2>"$target/build.log" ||
        { grep -v '^ *Compiling' "$target/build.log" >&2 && exit 1; }
}
messages=$(build "${libraries[@]}" && build "${tests[@]}")
mapfile -t binaries < <(sed -n 's/.*"test":true.*"executable":"\([^"]*\)".*/\1/p' <<<"$messages")

# What a test binary tells cargo-bolero about its targets. The other tests in it run, too, and do not matter here.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" <<<"$line"; }
failed=0
for binary in "${binaries[@]}"; do
    mapfile -t lines < <(CARGO_BOLERO_SELECT=all timeout 120 "$binary" --nocapture --test-threads=1 \
        2>/dev/null | grep -a '^{"__bolero_target"' || true)
    for line in "${lines[@]}"; do
        test=$(field test_name)
        name="$(field package_name)::$test"
        work=$(field work_dir)
        [[ $name == *"$pattern"* ]] || continue
        if [[ $seconds == 0 ]]; then
            echo "$name"
            continue
        fi
        new="$target/corpus/${name//::/.}"
        log="$target/${name//::/.}.log"
        mkdir -p "$new" "$work/crashes"
        args="$new"
        if [[ -d $work/corpus ]]; then args+=" $work/corpus"; fi
        args+=" -max_total_time=$seconds -timeout=30 -max_len=4096 -artifact_prefix=$work/crashes/"
        if BOLERO_LIBFUZZER_ARGS=$args "$binary" "$test" --exact --nocapture --test-threads=1 >"$log" 2>&1; then
            echo "ok   $name: $(grep -ao 'Done [0-9]* runs' "$log" | tail -1), $(find "$new" -type f | wc -l) inputs"
        else
            echo "FAIL $name: see $log; what fails is in $work/crashes"
            failed=1
        fi
        rmdir --ignore-fail-on-non-empty -p "$work/crashes"
    done
done
exit $failed
