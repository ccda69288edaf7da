#!/usr/bin/env bash
# Installs the binaries of a folder, with units, samples, completions and manual pages: install.sh target/release.
# DESTDIR and PREFIX (/usr) say where.
set -euo pipefail
cd "$(dirname "$0")/.."

built="$1"
prefix="${PREFIX:-/usr}"
root="${DESTDIR:-}$prefix"
binaries=(ringway ringway-vrouter ringway-nri ringway-tuner ringway-controller)
# Becomes another runtime, whose options it has: no page of its own.
wrapper=ringway-runtime

put() { # put MODE DIRECTORY FILE...
    install -d "$2"
    install -m "$1" -t "$2" "${@:3}"
}

put 0755 "$root/bin" "${binaries[@]/#/$built/}" "$built/$wrapper"
# Called so, it becomes crun.
ln -sf "$wrapper" "$root/bin/ringway-crun"
put 0644 "$root/lib/systemd/system" config/systemd/*.service
put 0644 "$root/share/ringway" config/samples/*.toml config/containerd/*.toml
put 0644 "$root/share/ringway/profiles" config/profiles/*.toml
install -d "$root/share/ringway/kubernetes"
cp -r config/kubernetes/. "$root/share/ringway/kubernetes/"

# Tab completion of what an operator calls.
for command in ringway ringway-tuner; do
    for shell in bash:bash-completion/completions/$command zsh:zsh/site-functions/_$command fish:fish/vendor_completions.d/$command.fish; do
        file="$root/share/${shell#*:}"
        install -d "$(dirname "$file")"
        "$built/$command" completions "${shell%%:*}" >"$file"
        chmod 0644 "$file"
    done
done

# Manual pages say what `--help` says.
if ! command -v help2man >/dev/null; then
    echo "install: no manual pages: help2man is not installed (apt-get install help2man)" >&2
    exit 0
fi
manual() { # manual SECTION PAGE SUMMARY BINARY [SUBCOMMAND...]
    local help="${*:5} --help" file="$root/share/man/man$1/$2.$1"
    install -d "$(dirname "$file")"
    help2man --no-info --section="$1" --name="$3" --help-option="${help# }" --output="$file" "$built/$4"
    # help2man names the page after the binary; a subcommand's has its own name.
    sed -i "s/^\.TH [^ ]*/.TH ${2^^}/; s/^$4 \\\\-/$2 \\\\-/" "$file"
    gzip -9nf "$file"
}
summary() { "$built/$1" "${@:2}" --help | sed -n '1p'; }
manual 1 ringway "$(summary ringway)" ringway
for command in $("$built/ringway" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z][a-z-]*\) .*/\1/p'); do
    [[ $command == help ]] || manual 1 "ringway-$command" "$(summary ringway "$command")" ringway "$command"
done
for daemon in "${binaries[@]:1}"; do
    manual 8 "$daemon" "$(summary "$daemon")" "$daemon"
done
