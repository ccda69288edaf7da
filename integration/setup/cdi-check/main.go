// Cdi-check says of files of the Container Device Interface whether they are right, with the CDI project's own means: its JSON schema, and
// the package that containerd and podman read such files with. This is the last release whose schema Go's module proxy hands out.
package main

import (
	"fmt"
	"os"

	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/schema"
)

func check(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := schema.BuiltinSchema().ValidateData(text); err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	spec, err := cdi.ReadSpec(file, 0)
	if err != nil {
		return fmt.Errorf("reader: %w", err)
	}
	for _, device := range spec.Devices {
		fmt.Println(spec.GetDevice(device.Name).GetQualifiedName())
	}
	return nil
}

func main() {
	for _, file := range os.Args[1:] {
		if err := check(file); err != nil {
			fmt.Fprintf(os.Stderr, "cdi-check: %s: %v\n", file, err)
			os.Exit(1)
		}
	}
}
