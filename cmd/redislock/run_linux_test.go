package main

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

// Nobody would refresh the lock of a command that goes on. Whoever is next must be alone.
func TestRunIsKilled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	args := append([]string{"run", "-ttl", "3s", key, "--"}, exclusive(t, filepath.Join(t.TempDir(), "file"))...)
	first := start(t, urlOf(server), args...)
	require.Equal(t, "alone: true", first.line())
	second := start(t, urlOf(server), args...)
	awaitWaiters(t, server, 1)
	first.kill(syscall.SIGKILL)
	first.nobody()
	assert.Equal(t, "alone: true", second.line())
}
