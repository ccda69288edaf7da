// Pins is an NRI plugin that sets CPUs, as balloons, topology-aware and DRA drivers do: every container of a pod with the annotation
// "cpus.pins.example" gets these, when it is created and whenever it is updated. It is written with the Go stub that those use.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

const key = "cpus.pins.example"

type plugin struct{}

func (plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, _ *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	cpus := pod.GetAnnotations()[key]
	if cpus == "" {
		return nil, nil, nil
	}
	adjustment := &api.ContainerAdjustment{}
	adjustment.SetLinuxCPUSetCPUs(cpus)
	adjustment.SetLinuxCPUSetMems("0")
	return adjustment, nil, nil
}

func (plugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, container *api.Container, _ *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	cpus := pod.GetAnnotations()[key]
	if cpus == "" {
		return nil, nil
	}
	update := &api.ContainerUpdate{}
	update.SetContainerId(container.GetId())
	update.SetLinuxCPUSetCPUs(cpus)
	return []*api.ContainerUpdate{update}, nil
}

func run() error {
	if len(os.Args) != 3 {
		return fmt.Errorf("usage: pins SOCKET INDEX")
	}
	it, err := stub.New(plugin{}, stub.WithPluginName("pins"), stub.WithPluginIdx(os.Args[2]), stub.WithSocketPath(os.Args[1]))
	if err != nil {
		return err
	}
	return it.Run(context.Background())
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "pins:", err)
		os.Exit(1)
	}
}
