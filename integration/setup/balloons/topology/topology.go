// Package topology stands in for the one module of nri-plugins' own that Go's proxy does not serve. There it finds the CPUs near a
// device that a container has. Containers of the tests have none: their mounts are of memory, for which the original finds nothing
// either.
package topology

import "errors"

// Hint is where one device is.
type Hint struct {
	Provider, CPUs, NUMAs, Sockets string
}

// Hints are those of several devices, by the name of each.
type Hints map[string]Hint

// Logger is what SetLogger takes.
type Logger interface {
	Debugf(format string, values ...any)
}

var errNone = errors.New("built without hints of devices")

// SetLogger keeps nothing: there is nothing to tell.
func SetLogger(logger Logger) Logger { return logger }

// SetSysRoot keeps nothing: no device is looked for.
func SetSysRoot(string) {}

// FindSysFsDevice finds none.
func FindSysFsDevice(string) (string, error) { return "", errNone }

// FindGivenSysFsDevice finds none.
func FindGivenSysFsDevice(string, int64, int64) (string, error) { return "", errNone }

// NewTopologyHints gives none.
func NewTopologyHints(string) (Hints, error) { return nil, errNone }

// MergeTopologyHints adds what only the second one has to the first.
func MergeTopologyHints(into, from Hints) Hints {
	if into == nil {
		into = Hints{}
	}
	for name, hint := range from {
		if _, known := into[name]; !known {
			into[name] = hint
		}
	}
	return into
}

// String is for logs.
func (h *Hint) String() string { return h.Provider }
