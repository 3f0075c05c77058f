package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/bsm/redislock/internal/redistest"
)

// A terminal is one that the program runs at, and the side of it that the user has.
type terminal struct {
	*process
	user *os.File
}

// startAtTerminal starts the program in the foreground of a terminal of its own. What it prints there
// is its lines.
func startAtTerminal(t *testing.T, redisURL string, args ...string) *terminal {
	t.Helper()
	return startAtTerminalVia(t, redisURL, nil, args...)
}

// startAtTerminalVia starts another program there, which starts this one.
func startAtTerminalVia(t *testing.T, redisURL string, via []string, args ...string) *terminal {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	file, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	defer file.Close()

	p := newProcess(t, redisURL, append(append(via, os.Args[0]), args...)...)
	p.command.Stdin, p.command.Stdout, p.command.Stderr = file, file, file
	p.command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p.begin(user)
	return &terminal{p, user}
}

// press presses Ctrl with a letter.
func (t *terminal) press(letter byte) {
	t.t.Helper()
	_, err := t.user.Write([]byte{letter - '@'})
	require.NoError(t.t, err)
}

// The key reaches the command and the program. A second signal would be taken for impatience.
func TestKeysOfATerminal(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := startAtTerminal(t, urlOf(server), append([]string{"run", key, "--"}, counting()...)...)
	require.Equal(t, "ready", p.line())
	for range 3 {
		p.press('C')
		assert.Equal(t, "^Cinterrupt", p.line())
		p.kill(syscall.SIGUSR1) // comes after what else may have been passed on
		assert.Equal(t, syscall.SIGUSR1.String(), p.line())
		p.press('\\')
		assert.Equal(t, `^\quit`, p.line())
		if t.Failed() {
			return
		}
	}
	assert.Equal(t, 7, p.code())
	assert.Zero(t, server.Client().Exists(t.Context(), key).Val())
}

func TestTerminalStopsBoth(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := startAtTerminal(t, urlOf(server), "run", key, "--", "sh", "-c",
		"trap '' TSTP; trap 'echo goes on; exit 5' CONT; echo $$; while :; do sleep 0.01; done")
	var child int
	_, err := fmt.Sscan(p.line(), &child)
	require.NoError(t, err)
	p.press('Z')
	for _, pid := range []int{p.pid(), child} {
		require.Eventually(t, func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err == nil && strings.Contains(string(stat), ") T ")
		}, patience, time.Millisecond)
	}
	p.kill(syscall.SIGCONT)
	assert.Contains(t, p.line(), "goes on")
	assert.Equal(t, 5, p.code())
}

// By then the lock may be somebody else's.
func TestTerminalStopsBothForTooLong(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := startAtTerminal(t, urlOf(server), "run", "-ttl", "3s", key, "--", "sh", "-c",
		"trap 'echo goes on' CONT; echo ready; while :; do sleep 0.01; done")
	require.Equal(t, "ready", p.line())
	p.press('Z')
	client := server.Client()
	require.Eventually(t, func() bool { return client.Exists(context.Background(), key).Val() == 0 }, patience, 10*time.Millisecond)
	p.kill(syscall.SIGCONT)
	assert.Equal(t, exitNotHeld, p.code())
	var text strings.Builder
	for line := range p.lines {
		text.WriteString(line)
	}
	assert.Contains(t, text.String(), "the command was ended because the lock")
	assert.NotContains(t, text.String(), "goes on")
}

func TestProgressAtATerminal(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	holder := start(t, urlOf(server), idle()...)
	require.Equal(t, "ready", holder.line())
	p := startAtTerminal(t, urlOf(server), "run", key, "--", "echo", "it runs")
	require.NoError(t, unix.IoctlSetWinsize(int(p.user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 50}))
	awaitWaiters(t, server, 1)
	looks := server.Calls("evalsha")
	require.Eventually(t, func() bool { return server.Calls("evalsha") >= looks+4 }, patience, 10*time.Millisecond)
	require.NoError(t, holder.stdin.Close())
	line := p.line() // with what was overwritten
	assert.Contains(t, line, clearLine+`waiting for "a key", 1 of 1 in the queue, held b…`)
	assert.True(t, strings.HasSuffix(line, clearLine+"it runs"), "%q", line)
	assert.Zero(t, p.code())
}

// Where the line is shown follows a shell's bg and fg.
func TestProgressInTheForegroundOnly(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	hold(t, server.Client())
	jobControl := []string{"sh", "-c", `set -m; "$@" & read line; echo "read $line"; fg`, "sh"}
	p := startAtTerminalVia(t, urlOf(server), jobControl, "run", key, "--", "echo", "it runs")
	awaitWaiters(t, server, 1)
	_, err := p.user.WriteString("a line\n")
	require.NoError(t, err)
	assert.Equal(t, "a line", p.line(), "as the terminal echoes it")
	assert.Equal(t, "read a line", p.line())
	p.line() // fg prints the command
	looks := server.Calls("evalsha")
	require.Eventually(t, func() bool { return server.Calls("evalsha") >= looks+4 }, patience, 10*time.Millisecond)
	p.press('C')
	assert.Contains(t, p.line(), clearLine+`waiting for "a key", 1 of 1 in the queue`)
	assert.Equal(t, 130, p.code())
}

func TestInterruptAtATerminal(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	hold(t, server.Client())
	p := startAtTerminal(t, urlOf(server), "run", key, "--", "echo", "it runs")
	awaitWaiters(t, server, 1)
	p.press('C')
	assert.Equal(t, 130, p.code())
	assert.Zero(t, server.Client().Exists(t.Context(), queueOf).Val())
}
