//go:build unix

package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

func TestRunAFewAtATime(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	first := start(t, urlOf(server), idle("-limit", "2")...)
	second := start(t, urlOf(server), idle("-limit", "2")...)
	require.Equal(t, "ready", first.line())
	require.Equal(t, "ready", second.line())

	third := start(t, urlOf(server), idle("-limit", "2")...)
	awaitWaiters(t, server, 1)
	refused := start(t, urlOf(server), idle("-limit", "2", "-no-wait")...)
	assert.Equal(t, exitNotObtained, refused.code())
	assert.Contains(t, refused.complaint(), ", and 1 more")

	require.NoError(t, first.stdin.Close())
	assert.Zero(t, first.code(), first.errors())
	assert.Equal(t, "ready", third.line())
}

func TestRunTogether(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var readers []*process
	for range 3 {
		reader := start(t, urlOf(server), idle("-shared")...)
		require.Equal(t, "ready", reader.line())
		readers = append(readers, reader)
	}
	writer := start(t, urlOf(server), idle()...)
	awaitWaiters(t, server, 1)
	for _, reader := range readers {
		require.NoError(t, reader.stdin.Close())
		assert.Zero(t, reader.code(), reader.errors())
	}
	assert.Equal(t, "ready", writer.line())
}

// A job of cron is started on two machines, and has ended on the first when the second starts it.
func TestRunOnceAnInterval(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	job := []string{"run", "-no-wait", "-at-least", "55m", key, "--", "echo", "it runs"}
	assert.Equal(t, []string{"it runs"}, output(t, urlOf(server), job...))
	second := start(t, urlOf(server), job...)
	assert.Equal(t, exitNotObtained, second.code())
	assert.Regexp(t, `is held by .+: echo it runs, which has ended but holds it for another 5[45]m`, second.complaint())
	second.nobody()

	assert.Contains(t, output(t, urlOf(server), "inspect", key)[1], "released, kept")
	release := start(t, urlOf(server), "release", "-force", key)
	assert.Equal(t, exitNotHeld, release.code())
	assert.Contains(t, release.complaint(), "stays for another 5")

	require.NoError(t, server.Client().Expire(t.Context(), key, time.Millisecond).Err())
	third := start(t, urlOf(server), "run", "-at-least", "55m", key, "--", "echo", "it runs")
	assert.Equal(t, "it runs", third.line(), "in the next interval")
}

func TestRunForSoLong(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	command := exclusive(t, filepath.Join(t.TempDir(), "file"))
	first := start(t, urlOf(server), append([]string{"run", "-at-most", "3s", key, "--"}, command...)...)
	require.Equal(t, "alone: true", first.line())
	second := start(t, urlOf(server), append([]string{"run", key, "--"}, command...)...)
	assert.Equal(t, "alone: true", second.line())
	assert.Equal(t, exitNotHeld, first.code())
	assert.Contains(t, first.errors(), "was held only until")
}
