//go:build tools

// Package nerdctl names the program that the set-up builds, so that its module is a direct requirement.
package nerdctl

import _ "github.com/containerd/nerdctl/v2/cmd/nerdctl"
