// Package tig has the one name that nerdctl's program needs of its own test framework, whose module Go's proxy does not serve:
// nerdctl's commands import its test helpers, and one of those takes a T. No command calls it.
package tig

// T is what that helper calls; a *testing.T is one.
type T interface {
	Log(args ...any)
	FailNow()
}
