//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// output runs the program and returns what it prints to standard output.
func output(t *testing.T, redisURL string, args ...string) (lines []string) {
	t.Helper()
	p := start(t, redisURL, args...)
	require.Zero(t, p.code(), p.errors())
	for line := range p.lines {
		lines = append(lines, line)
	}
	return lines
}

// idle is a command that runs until standard input ends.
func idle(flags ...string) []string {
	return append(append([]string{"run"}, flags...), key, "--", "sh", "-c", "echo ready; cat")
}

func TestInspect(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	first := start(t, urlOf(server), idle()...)
	require.Equal(t, "ready", first.line())
	start(t, urlOf(server), idle()...)
	awaitWaiters(t, server, 1)

	lines := output(t, urlOf(server), "inspect", key, "another")
	require.Len(t, lines, 4)
	assert.Regexp(t, `^KEY +STATE +TIME +TOKEN +WHO$`, lines[0])
	who := `\S+@\S+ pid \d+: sh -c echo ready; cat`
	assert.Regexp(t, `^a key +held +1[0-5]\S+ left +[\w-]{22} +`+who+`$`, lines[1])
	assert.Regexp(t, `^a key +waits, place 1 +for \S+s +[\w-]{22} +`+who+`$`, lines[2])
	assert.Regexp(t, `^another +free +- +- +-$`, lines[3])

	var states []struct {
		Key     string
		Limit   int
		Holders []struct {
			Token    string
			Metadata holder
			TTL      float64 `json:"ttl_seconds"`
		}
		Waiters []struct {
			Token    string
			Metadata holder
			Since    time.Time
		}
	}
	text := strings.Join(output(t, urlOf(server), "inspect", "-json", key, "another"), "\n")
	require.NoError(t, json.Unmarshal([]byte(text), &states), text)
	require.Len(t, states, 2)
	require.Len(t, states[0].Holders, 1)
	require.Len(t, states[0].Waiters, 1)
	assert.Equal(t, key, states[0].Key)
	assert.Equal(t, 1, states[0].Limit)
	assert.Equal(t, first.pid(), states[0].Holders[0].Metadata.PID)
	assert.Equal(t, "sh -c echo ready; cat", states[0].Holders[0].Metadata.Command)
	assert.Positive(t, states[0].Holders[0].TTL)
	assert.WithinDuration(t, time.Now(), states[0].Waiters[0].Since, time.Minute)
	assert.Contains(t, text, `"holders": [],`, "not null")
}

func TestJSONOfWhatOthersWrite(t *testing.T) {
	t.Parallel()
	const token = "0123456789012345678901"
	var out bytes.Buffer
	require.NoError(t, printJSON(&out, []string{key}, []state{{holders: []entry{
		{value: token + "{\"host\":\"a\xff\"}", ttl: -time.Millisecond},
		{value: token + `{"host":"a"}`, ttl: 0},
	}}}))
	assert.True(t, utf8.Valid(out.Bytes()))
	assert.JSONEq(t, `[{"key":"a key","holders":[
		{"token":"`+token+`","metadata":"{\"host\":\"a\ufffd\"}"},
		{"token":"`+token+`","metadata":{"host":"a"},"ttl_seconds":0}
	],"waiters":[]}]`, out.String())
}

func TestRelease(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	lock := hold(t, server.Client())

	p := start(t, urlOf(server), "release", key, "-token", "no-such-token")
	assert.Equal(t, exitNotHeld, p.code())
	assert.Contains(t, p.complaint(), `"no-such-token"`)

	assert.Empty(t, output(t, urlOf(server), "release", key, "-token", lock.Token()))
	assert.Zero(t, server.Client().Exists(t.Context(), key).Val())

	// Whoever waits is next.
	hold(t, server.Client())
	next := start(t, urlOf(server), "run", key, "--", "echo", "next")
	awaitWaiters(t, server, 1)
	assert.Empty(t, output(t, urlOf(server), "release", "-force", key))
	assert.Equal(t, "next", next.line())
	assert.Zero(t, next.code())

	p = start(t, urlOf(server), "release", "-force", key)
	assert.Equal(t, exitNotHeld, p.code())
	assert.Contains(t, p.complaint(), "nobody holds")
}

func TestReleaseSkipsHoldersThatHaveGone(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t).Client()
	lock := hold(t, client)
	released, err := releaseAll(client, key, []string{"of one that has gone", lock.Token()})
	require.NoError(t, err)
	assert.Equal(t, 1, released)
	assert.Zero(t, client.Exists(t.Context(), key).Val())
	released, err = releaseAll(client, key, []string{lock.Token()})
	require.NoError(t, err)
	assert.Zero(t, released)
}

func TestReleaseAllOfAKind(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	for range 3 {
		_, err := redislock.Obtain(t.Context(), client, key, time.Hour, &redislock.Options{Limit: 3, Metadata: "a"})
		require.NoError(t, err)
	}
	lines := output(t, urlOf(server), "inspect", key)
	require.Len(t, lines, 4)
	assert.Contains(t, lines[1], "held, 1 of 3")
	output(t, urlOf(server), "release", "-force", key)
	assert.Contains(t, output(t, urlOf(server), "inspect", key)[1], "free")
}

func TestWatch(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	w := start(t, urlOf(server), "watch", "-interval", "10ms", key)
	sees := func(what string) {
		t.Helper()
		assert.Regexp(t, `^\d\d:\d\d:\d\d\.\d{3}  `+regexp.QuoteMeta(what), w.line())
	}
	sees("free")
	lock := hold(t, client)
	sees("holds     token " + lock.Token())
	p := start(t, urlOf(server), "run", "-at-least", "1h", key, "--", "sh", "-c", "echo ready; cat")
	sees("waits     ")
	require.NoError(t, lock.Release(t.Context()))
	sees("released  token " + lock.Token())
	sees("holds     ")
	require.Equal(t, "ready", p.line())
	require.NoError(t, p.stdin.Close())
	sees("released  ")
	sees("keeps     for another ")
	require.NoError(t, client.Del(t.Context(), key).Err())
	sees("free")
	server.Kill()
	sees("no answer from Redis: ")
	server.Restart()
	sees("Redis answers again")
	w.kill(syscall.SIGINT)
	assert.Zero(t, w.code())
	assert.Empty(t, w.errors())
}

// What is in Redis may have been written by anybody.
func TestNothingThatIsPrintedControlsATerminal(t *testing.T) {
	t.Parallel()
	evil := "0123456789012345678901" + "\x1b]0;title\x07\n\u202e\xff"
	var out bytes.Buffer
	s := state{holders: []entry{{value: evil}}, waiters: []entry{{value: evil}}}
	require.NoError(t, printTable(&out, []string{evil}, []state{s}, time.Now()))
	w := &watcher{out: &out, now: time.Now}
	require.NoError(t, w.see(s, nil))
	assert.NotRegexp(t, "[\x1b\x07\u202e]", out.String())
	assert.NotContains(t, out.String(), "\xff")
	assert.Equal(t, 5, strings.Count(out.String(), "\n"))
	assert.Contains(t, out.String(), `\x1b]0;title\a\n\u202e\xff`)
}
