package main

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

// Nobody would refresh the lock of a command that goes on.
func TestRunIsKilled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := start(t, urlOf(server), "run", key, "--", "sh", "-c", "trap '' TERM HUP; echo ready; while :; do read line || :; done")
	require.Equal(t, "ready", p.line())
	p.kill(syscall.SIGKILL)
	p.nobody()
	assert.EqualValues(t, 1, server.Client().Exists(t.Context(), key).Val(), "the lock is nobody else's yet")
}
