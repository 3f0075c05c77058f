//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

const key = "a key"

// queueOf is a key that Redis has while somebody waits for the lock.
const queueOf = "{" + key + "}:redislock:queue"

func TestRunExitsAsTheCommand(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	plain := filepath.Join(t.TempDir(), "plain")
	require.NoError(t, os.WriteFile(plain, []byte("text"), 0o600))
	for _, test := range []struct {
		name    string
		command []string
		code    int
	}{
		{"success", []string{"true"}, 0},
		{"failure", []string{"sh", "-c", "exit 3"}, 3},
		{"one of the program's own", []string{"sh", "-c", "exit 75"}, 75},
		{"signal", []string{"sh", "-c", "kill -KILL $$"}, 137},
		{"no such command", []string{"redislock-has-no-such-command"}, 127},
		{"no such file", []string{"/nowhere/command"}, 127},
		{"not executable", []string{plain}, 126},
		{"a directory", []string{t.TempDir()}, 126},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, urlOf(server), append([]string{"run", test.name, "--"}, test.command...)...)
			assert.Equal(t, test.code, p.code(), p.errors())
			if test.code == 126 || test.code == 127 {
				p.complaint()
			} else {
				assert.Empty(t, p.errors())
			}
			assert.Zero(t, server.Client().Exists(t.Context(), test.name).Val(), "released")
		})
	}
}

func TestRunWithoutRedis(t *testing.T) {
	t.Parallel()
	p := start(t, "redis://127.0.0.1:1?max_retries=-1", "run", key, "--", "echo", "it runs")
	assert.Equal(t, exitRedis, p.code())
	assert.Contains(t, p.complaint(), "127.0.0.1:1")
	p.nobody()
}

func TestRunPassesArgumentsAsTheyAre(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	args := []string{"a  b", "$HOME", "`id`", `"`, "'", ";", "*", "--", "-h", ""}
	p := start(t, urlOf(server), append([]string{"run", key, "--", "printf", `<%s>\n`}, args...)...)
	for _, arg := range args {
		assert.Equal(t, "<"+arg+">", p.line())
	}
	assert.Zero(t, p.code())
}

func TestRunOneAfterTheOther(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	command := exclusive(t, filepath.Join(t.TempDir(), "file"))
	args := append([]string{"run", key, "--"}, command...)
	first := start(t, urlOf(server), args...)
	assert.Equal(t, "alone: true", first.line())
	second := start(t, urlOf(server), args...)
	awaitWaiters(t, server, 1)
	third := start(t, urlOf(server), args...)
	awaitWaiters(t, server, 2)
	for _, p := range []*process{first, second, third} {
		if p != first {
			assert.Equal(t, "alone: true", p.line())
		}
		require.NoError(t, p.stdin.Close())
		assert.Zero(t, p.code(), p.errors())
	}
	assert.Zero(t, server.Client().Exists(t.Context(), key, queueOf).Val())
}

func awaitWaiters(t *testing.T, server *redistest.Server, n int64) {
	t.Helper()
	client := server.Client()
	require.Eventually(t, func() bool {
		return client.ZCard(context.Background(), queueOf).Val() == n
	}, patience, 5*time.Millisecond, "%d wait", n)
}

// hold takes the lock for long, as a process of another program would.
func hold(t *testing.T, client redis.UniversalClient) *redislock.Lock {
	t.Helper()
	lock, err := redislock.Obtain(t.Context(), client, key, time.Hour, &redislock.Options{RetryStrategy: redislock.FairQueue()})
	require.NoError(t, err)
	return lock
}

func TestRunWaitsForSoLong(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	lock := hold(t, server.Client())
	for _, test := range []struct {
		flags []string
		quiet bool
	}{
		{flags: []string{"-wait", "2s"}},
		{flags: []string{"-no-wait"}},
		{flags: []string{"-no-wait", "-quiet"}, quiet: true},
		{flags: []string{"-wait", "2s", "-quiet"}, quiet: true},
	} {
		t.Run(strings.Join(test.flags, " "), func(t *testing.T) {
			t.Parallel()
			args := append([]string{"run"}, test.flags...)
			p := start(t, urlOf(server), append(args, key, "--", "echo", "it runs")...)
			assert.Equal(t, exitNotObtained, p.code())
			if test.quiet {
				assert.Empty(t, p.errors())
			} else {
				assert.Contains(t, p.complaint(), lock.Token(), "who holds it")
			}
			p.nobody()
		})
	}
}

func TestRunSaysWhoHoldsTheLock(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := start(t, urlOf(server), "run", key, "--", "sh", "-c", "echo ready; read line")
	require.Equal(t, "ready", p.line())
	value := server.Client().Get(t.Context(), key).Val()
	host, err := os.Hostname()
	require.NoError(t, err)
	_, metadata := splitValue(value)
	assert.Contains(t, metadata, fmt.Sprintf(`{"host":%q,"pid":%d,"user":`, host, p.pid()))
	assert.Contains(t, metadata, `"command":"sh -c echo ready; read line"}`)
	other := start(t, urlOf(server), "run", "-no-wait", key, "--", "true")
	assert.Contains(t, other.complaint(), fmt.Sprintf("@%s pid %d: sh -c echo ready; read line", host, p.pid()))
}

// Another process may have the lock as soon as it expires. By then the first must have ended its
// command, which does not care for SIGTERM.
func TestRunEndsTheCommandBeforeTheLock(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client()
	require.NoError(t, admin.Do(t.Context(), "acl", "setuser", "first", "on", ">secret", "~*", "&*", "+@all").Err())
	args := append([]string{"run", "-ttl", "6s", key, "--"}, exclusive(t, filepath.Join(t.TempDir(), "file"))...)
	first := start(t, "redis://first:secret@"+server.Addr, args...)
	require.Equal(t, "alone: true", first.line())
	second := start(t, urlOf(server), args...)
	awaitWaiters(t, server, 1)
	// From here on Redis refuses the first, and no one else.
	require.NoError(t, admin.Do(t.Context(), "acl", "setuser", "first", "-@all").Err())
	assert.Equal(t, "alone: true", second.line())
	assert.Equal(t, exitNotHeld, first.code())
	assert.Contains(t, first.errors(), "the command was ended because the lock of \"a key\" was held only until")
	require.NoError(t, second.stdin.Close())
	assert.Zero(t, second.code())
}

func TestRunEndsTheCommandWhenTheLockIsGone(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ script, last string }{
		"it ends when asked to":   {`trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.01; done`, "asked"},
		"it does not":             {`trap '' TERM; echo ready; sleep 1000 & wait`, ""},
		"it leaves something":     {`trap 'echo asked; exit 0' TERM; (trap '' TERM; sleep 1000) & echo ready; while :; do sleep 0.01; done`, "asked"},
		"it is stopped":           {`echo ready; kill -STOP $$`, ""},
		"it ends with a bad code": {`trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.01; done`, "asked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			p := start(t, urlOf(server), "run", "-ttl", "6s", key, "--", "sh", "-c", test.script)
			require.Equal(t, "ready", p.line())
			require.NoError(t, server.Client().Set(t.Context(), key, "somebody else", 0).Err())
			if test.last != "" {
				assert.Equal(t, test.last, p.line())
			}
			assert.Equal(t, exitNotHeld, p.code())
			assert.Contains(t, p.complaint(), "lost")
			p.nobody()
			assert.Equal(t, "somebody else", server.Client().Get(t.Context(), key).Val())
		})
	}
}

// A command that was quicker than the next refresh has not been told.
func TestRunTellsOfALossThatItFindsLate(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := start(t, urlOf(server), "run", "-ttl", "1h", key, "--", "sh", "-c", "echo ready; read line")
	require.Equal(t, "ready", p.line())
	require.NoError(t, server.Client().Del(t.Context(), key).Err())
	require.NoError(t, p.stdin.Close())
	// read has met the end of its input, which is its own failure.
	assert.Equal(t, 1, p.code())
	assert.Contains(t, p.complaint(), "lost before the command had ended")

	p = start(t, urlOf(server), "run", "-ttl", "1h", key, "--", "sh", "-c", "echo ready; cat")
	require.Equal(t, "ready", p.line())
	require.NoError(t, server.Client().Del(t.Context(), key).Err())
	require.NoError(t, p.stdin.Close())
	assert.Equal(t, exitNotHeld, p.code())
	assert.Contains(t, p.complaint(), "lost before the command had ended")
}

func TestRunKeepsTheLockThroughAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	p := start(t, urlOf(server), "run", "-ttl", "30s", key, "--", "sh", "-c", "echo ready; cat")
	require.Equal(t, "ready", p.line())
	value := server.Client().Get(t.Context(), key).Val()
	server.Kill()
	server.Restart()
	require.NoError(t, server.Client().Set(t.Context(), key, value, time.Minute).Err()) // it had no disk
	require.NoError(t, p.stdin.Close())
	assert.Zero(t, p.code(), p.errors())
	assert.Zero(t, server.Client().Exists(t.Context(), key).Val())
}

// Nobody has to wait out -at-least for a command that has not run.
func TestRunGivesTheLockBackUnused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	noProgram := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(noProgram, []byte("text"), 0o700))
	p := start(t, urlOf(server), "run", "-at-least", "1h", key, "--", noProgram)
	assert.Equal(t, 126, p.code())
	assert.Contains(t, p.complaint(), "exec format error")
	assert.Zero(t, server.Client().Exists(t.Context(), key).Val())
}

// The program may have been stopped since it obtained the lock.
func TestRunStartsNothingUnderALockThatIsAboutToEnd(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r := &runner{key: key, ttl: 4 * time.Hour, path: "/nowhere/command", command: []string{"command"}}
	err := r.runUnder(hold(t, server.Client())) // for an hour
	var f *failure
	require.ErrorAs(t, err, &f)
	assert.Equal(t, exitNotHeld, f.code)
	assert.ErrorContains(t, err, "the command was not started")
	assert.Zero(t, server.Client().Exists(t.Context(), key).Val(), "given back")
}

func TestRunOverSentinel(t *testing.T) {
	t.Parallel()
	addr := redistest.StartSentinel(t, 1).Sentinels[0].Addr
	p := start(t, "redis://"+addr+"?master_name=primary", "run", key, "--", "echo", "it runs")
	assert.Equal(t, "it runs", p.line())
	assert.Zero(t, p.code(), p.errors())
}

func TestRunOnACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false)
	addr := cluster.Masters[0].Addr
	p := start(t, "redis://"+addr+"?cluster=true", "run", key, "--", "echo", "it runs")
	assert.Equal(t, "it runs", p.line())
	assert.Zero(t, p.code(), p.errors())

	other := cluster.Masters[(cluster.MasterOf(key)+1)%len(cluster.Masters)].Addr
	p = start(t, "redis://"+other, "run", key, "--", "echo", "it runs")
	assert.Equal(t, exitRedis, p.code())
	assert.Contains(t, p.complaint(), "add cluster=true")
}
