module ringway.dev/setup/cdi-check

go 1.23

require tags.cncf.io/container-device-interface v0.8.1
