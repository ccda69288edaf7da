module ringway.dev/setup/nerdctl

go 1.24.3

require github.com/containerd/nerdctl/v2 v2.2.1

// Its own go.mod replaces that module by a directory, which Go's proxy does not serve.
replace github.com/containerd/nerdctl/mod/tigron => ./tigron
