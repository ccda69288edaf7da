module ringway.dev/setup/nerdctl

go 1.24

require github.com/containerd/nerdctl/v2 v2.1.6
