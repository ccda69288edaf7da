#!/usr/bin/env bash
# What the tests on a Kubernetes node need: Kubernetes, crictl, critest and the newest containerd, built by Go from what its module
# proxy serves, and etcd, unpacked from a newer Debian suite; also the containerd lines that no Debian suite carries. All of it goes
# below target/k8s (containerd: target/containerd); nothing is installed, no service starts. Does only what is missing:
# kubernetes.sh [PROGRAM...], all of them without a name.
#
# A first build takes a quarter of an hour on two idle CPUs, 3 GB of disk in Go's caches and 2 GB of memory; the largest program,
# kube-apiserver, most of it. SETUP_SECONDS (3600) bounds each program, GOFLAGS=-p=1 keeps CPUs for others. What cannot be had is
# said, and its tests are skipped; target/k8s/no-PROGRAM has the reason and is deleted to try again.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
setup=$root/integration/setup
target=$root/target/k8s
seconds=${SETUP_SECONDS:-3600}
. "$setup/debian.sh"

programs=(
    etcd kube-apiserver kube-scheduler kubectl kube-controller-manager kubelet crictl critest
    containerd containerd-2.2 containerd-2.3
)
if (($# > 0)); then
    programs=("$@")
fi

# version MODULE: as the go.mod that names it says.
version() { sed -n "s|^.*$1 \(v[0-9.]*\)\$|\1|p" "$setup"/{kubernetes,containerd}/go.mod | head -n 1; }
kubernetes=$(version k8s.io/kubernetes)
containerd=$(version github.com/containerd/containerd/v2)
# Of the lines between Debian's and the newest.
older=(v2.2.9 v2.3.7)

# containerd stands beside those of the distribution, by its line: 2.4.
line() { # version
    local line=${1#v}
    echo "${line%.*}"
}
release() { # program: containerd or containerd-LINE
    local version
    for version in "${older[@]}"; do
        if [[ $1 == containerd-$(line "$version") ]]; then
            echo "$version"
            return
        fi
    done
    echo "$containerd"
}

place() { # program
    case $1 in
        containerd*) echo "$root/target/containerd/$(line "$(release "$1")")/usr/bin/containerd" ;;
        *) echo "$target/bin/$1" ;;
    esac
}

missing() { # program, reason
    echo "$2" >"$target/no-$1"
}

# go_build MODULE OUTPUT PACKAGE [OPTION...]: a static program, from a copy of the module, whose files Go completes. A module
# containerd-LINE is that of containerd with another version.
go_build() {
    local module=$1 output=$2 package=$3 work=$target/$1 verb=(build) version
    version=$(release "$module")
    shift 3
    if [[ $package == */critest ]]; then
        verb=(test -c)
    fi
    mkdir -p "$(dirname "$output")"
    if [[ ! -d $work ]]; then
        cp -r "$setup/${module%%-*}" "$work"
        sed -i "s|$containerd\$|$version|" "$work/go.mod"
    fi
    local names=(
        "k8s.io/component-base/version.gitVersion=$kubernetes" "k8s.io/client-go/pkg/version.gitVersion=$kubernetes"
        "github.com/containerd/containerd/v2/version.Version=$version"
    )
    (cd "$work" && GOFLAGS="-mod=mod ${GOFLAGS:-}" CGO_ENABLED=0 timeout "$seconds" go "${verb[@]}" -trimpath "$@" \
        -ldflags "-s -w $(printf -- '-X %s ' "${names[@]}")" -o "$output.new" "$package") &&
        mv "$output.new" "$output"
}

etcd() { # output
    local work=$target/etcd
    download trixie etcd-server "$work" && dpkg-deb -x "$work"/deb/etcd-server_*.deb "$work/root" &&
        install -D "$work/root/usr/bin/etcd" "$1" && rm -rf "$work"
}

make_one() { # program, output
    case $1 in
        etcd) etcd "$2" ;;
        crictl | critest) go_build kubernetes "$2" "sigs.k8s.io/cri-tools/cmd/$1" ;;
        containerd*)
            local name
            # The daemon last: it is what says that all are there. Without cgo there are no btrfs and device mapper.
            for name in ctr containerd-shim-runc-v2 containerd; do
                go_build "$1" "$(dirname "$2")/$name" "github.com/containerd/containerd/v2/cmd/$name" \
                    -tags "no_btrfs no_devmapper no_zfs" || return 1
            done
            ;;
        *) go_build kubernetes "$2" "k8s.io/kubernetes/cmd/$1" ;;
    esac
}

# Another version in a go.mod begins anew.
stamp="$kubernetes $containerd $(version sigs.k8s.io/cri-tools)"
if [[ "$(cat "$target/versions" 2>/dev/null)" != "$stamp" ]]; then
    rm -rf "$target" "$root/target/containerd/$(line "$containerd")"
    mkdir -p "$target/bin"
    echo "$stamp" >"$target/versions"
fi
for version in "${older[@]}"; do
    program=containerd-$(line "$version")
    output=$(place "$program")
    if [[ -x $output && "$("$output" --version)" != *" $version "* ]]; then
        rm -rf "$target/$program" "$root/target/containerd/$(line "$version")"
    fi
done
for program in "${programs[@]}"; do
    output=$(place "$program")
    if [[ -x $output || -e $target/no-$program ]]; then
        continue
    fi
    if [[ $program != etcd ]] && ! command -v go >/dev/null; then
        missing "$program" "Go is not installed"
        continue
    fi
    case $program in
        etcd) echo "setup: fetching etcd from Debian trixie" ;;
        containerd*) echo "setup: building containerd $(release "$program") with Go" ;;
        *) echo "setup: building $program (Kubernetes $kubernetes) with Go" ;;
    esac
    begun=$SECONDS
    if make_one "$program" "$output" 2>"$target/$program.log"; then
        echo "setup: $program is in $output ($((SECONDS - begun)) s)"
    else
        reason=$(grep -v '^go: downloading' "$target/$program.log" | tail -n 1 | tr -d '\t' || true)
        missing "$program" "${reason:-not done within $seconds s}"
    fi
done
for reason in "$target"/no-*; do
    if [[ -e $reason ]]; then
        echo "SKIP ${reason##*/no-}: $(cat "$reason"); its tests are skipped, delete $reason to try again"
    fi
done
