//go:build tools

// Package balloons names the program that the set-up builds, so that its module is a direct requirement.
package balloons

import _ "github.com/containers/nri-plugins/cmd/plugins/balloons"
