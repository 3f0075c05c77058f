//go:build unix

package main

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestGuard(t *testing.T) {
	t.Parallel()
	const ttl = 30 * time.Second // asks 10 s before the end, kills 3 s before it
	begin := time.Unix(1_000_000, 0)
	at := func(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }
	type look struct {
		now, until float64
		gone       bool
		sig        syscall.Signal
		again      time.Duration
	}
	for name, looks := range map[string][]look{
		"refreshed": {
			{now: 0, until: 30, again: 20 * time.Second},
			{now: 20, until: 40, again: 10 * time.Second},
			{now: 30, until: 60, again: 20 * time.Second},
		},
		"not refreshed": {
			{now: 0, until: 30, again: 20 * time.Second},
			{now: 20, until: 30, sig: syscall.SIGTERM, again: 7 * time.Second},
			{now: 26.999, until: 30, again: time.Millisecond},
			{now: 27, until: 30, sig: syscall.SIGKILL},
		},
		"refreshed after it was asked": {
			{now: 20, until: 30, sig: syscall.SIGTERM, again: 7 * time.Second},
			{now: 27, until: 56, again: 26 * time.Second},
			{now: 53, until: 56, sig: syscall.SIGKILL},
		},
		"gone": {
			{now: 0, until: 30, again: 20 * time.Second},
			{now: 5, until: 5, gone: true, sig: syscall.SIGTERM, again: time.Second},
			{now: 6, until: 5, gone: true, sig: syscall.SIGKILL},
		},
		"gone after it was asked": {
			{now: 20, until: 30, sig: syscall.SIGTERM, again: 7 * time.Second},
			{now: 20.5, until: 20.5, gone: true, again: 500 * time.Millisecond},
			{now: 21, until: 20.5, gone: true, sig: syscall.SIGKILL},
		},
		"suspended for long": {
			{now: 0, until: 30, again: 20 * time.Second},
			{now: 100, until: 30, gone: true, sig: syscall.SIGKILL},
		},
		"obtained late": {
			{now: 0, until: 2, sig: syscall.SIGKILL},
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuard(ttl, 0)
			for i, look := range looks {
				sig, again := g.look(at(look.now), at(look.until), look.gone)
				assert.Equal(t, look.sig, sig, "look %d", i)
				assert.Equal(t, look.again, again, "look %d", i)
			}
		})
	}
}

// The lock of the longest begins with less than its TTL.
func TestGuardOfAShortLock(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1_000_000, 0)
	g := newGuard(30*time.Second, 3*time.Second)
	sig, again := g.look(begin, begin.Add(3*time.Second), false)
	assert.Zero(t, sig)
	assert.Equal(t, 2*time.Second, again)
	assert.Equal(t, newGuard(30*time.Second, 0), newGuard(30*time.Second, time.Hour))
}
