//go:build unix

package main

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	miniredis "github.com/alicebob/miniredis/v2/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

func TestRunPassesSignalsOn(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := start(t, urlOf(server), append([]string{"run", key, "--"}, counting()...)...)
	require.Equal(t, "ready", p.line())
	for _, sig := range append(passedOn, syscall.SIGQUIT) {
		p.kill(sig.(syscall.Signal))
		assert.Equal(t, sig.String(), p.line())
	}
	assert.EqualValues(t, 1, server.Client().Exists(t.Context(), key).Val(), "the lock is held until the command ends")
	p.kill(syscall.SIGQUIT)
	assert.Equal(t, 7, p.code())
	assert.Zero(t, server.Client().Exists(t.Context(), key).Val())
	assert.Empty(t, p.errors())
}

// Whoever ends the whole group of the program, as timeout does, does not reach the group of the
// command. Nothing may go on there when the lock is free.
func TestRunPassesSignalsOnToWhatTheCommandHasStarted(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := start(t, urlOf(server), "run", key, "--", "sh", "-c", `sh -c "echo ready; sleep 1000; true"; true`)
	require.Equal(t, "ready", p.line())
	p.kill(syscall.SIGTERM)
	p.nobody()
	assert.Equal(t, 143, p.code())
	assert.Zero(t, server.Client().Exists(t.Context(), key).Val())
}

func TestRunStopsAndContinuesTheCommand(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := start(t, urlOf(server), "run", "-ttl", "3s", key, "--", "sh", "-c", "trap 'echo goes on' CONT; echo ready; while :; do sleep 0.01; done")
	require.Equal(t, "ready", p.line())
	p.kill(syscall.SIGTSTP)
	refreshed := server.Calls("evalsha")
	require.Eventually(t, func() bool { return server.Calls("evalsha") >= refreshed+2 }, patience, 10*time.Millisecond,
		"the lock is kept alive")
	p.kill(syscall.SIGCONT)
	assert.Equal(t, "goes on", p.line())
}

func TestRunLeavesIgnoredSignalsIgnored(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	nohup := []string{"sh", "-c", `trap "" HUP; exec "$@"`, "sh"}
	p := startVia(t, urlOf(server), nohup, "run", key, "--", "sh", "-c", `echo ready; kill -HUP $$; read line; echo "$line"`)
	require.Equal(t, "ready", p.line())
	p.kill(syscall.SIGHUP)
	_, err := fmt.Fprintln(p.stdin.(interface {
		Write([]byte) (int, error)
	}), "still there")
	require.NoError(t, err)
	assert.Equal(t, "still there", p.line())
	assert.Zero(t, p.code())
}

func TestRunIsInterruptibleWhileItWaits(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			lock := hold(t, server.Client())
			p := start(t, urlOf(server), "run", key, "--", "echo", "it runs")
			awaitWaiters(t, server, 1)
			p.kill(syscall.SIGUSR1) // has nobody to be passed on to
			p.kill(sig)
			assert.Equal(t, 128+int(sig), p.code())
			assert.Empty(t, p.errors())
			assert.Zero(t, server.Client().Exists(t.Context(), queueOf).Val(), "it has left the queue")
			p.nobody()
			require.NoError(t, lock.Release(t.Context()))
			assert.Zero(t, server.Client().Exists(t.Context(), key).Val(), "nobody has it")
		})
	}
}

// It must not hang either while Redis does not answer.
func TestRunIsInterruptibleWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	p := start(t, "redis://"+silent.Addr().String()+"?read_timeout=60s", "run", key, "--", "echo", "it runs")
	conn, err := silent.Accept()
	require.NoError(t, err)
	defer conn.Close()
	p.kill(syscall.SIGTERM)
	assert.Equal(t, 143, p.code())
	p.nobody()
}

// The question who holds the lock may stay without an answer.
func TestRunIsInterruptibleWhileItAsksWhoHoldsTheLock(t *testing.T) {
	t.Parallel()
	server := redistest.Embedded(t)
	require.NoError(t, server.Set(key, "somebody else"))
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	t.Cleanup(func() { close(answer) })
	server.Server().SetPreHook(func(_ *miniredis.Peer, command string, args ...string) bool {
		if strings.HasPrefix(command, "EVAL") && args[1] != "1" { // keys: obtaining takes one
			asked <- struct{}{}
			<-answer
		}
		return false
	})
	p := start(t, "redis://"+server.Addr(), "run", "-no-wait", key, "--", "echo", "it runs")
	select {
	case <-asked:
	case <-time.After(patience):
		require.Fail(t, "no question", "standard error: %s", p.errors())
	}
	p.kill(syscall.SIGTERM)
	assert.Equal(t, 143, p.code())
	assert.Empty(t, p.errors())
}
