module ringway.dev/setup/pins

go 1.23

require github.com/containerd/nri v0.8.0
