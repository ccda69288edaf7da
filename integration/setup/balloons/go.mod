module ringway.dev/setup/balloons

go 1.25.0

require github.com/containers/nri-plugins v0.12.1

// Its own go.mod replaces that module by a directory, which Go's proxy does not serve.
replace github.com/containers/nri-plugins/pkg/topology => ./topology
