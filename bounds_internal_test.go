package redislock

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

// A release that has keys stay may come twice, and late. It does not make the time longer, and leaves
// alone what others have.
func TestScripts_releaseKeepTwice(t *testing.T) {
	embedded := redistest.Embedded(t)
	server := newServer(redistest.Client(t, embedded.Addr()))
	release := func(keys ...string) int64 {
		reply, err := call{script: releaseKeepScript, keys: keys, args: []any{"value", "mark", 10000}}.run(t.Context(), server)
		require.NoError(t, err)
		return reply
	}
	set := func(key, value string) {
		require.NoError(t, embedded.Set(key, value))
		embedded.SetTTL(key, time.Minute)
	}
	get := func(key string) string {
		value, _ := embedded.Get(key)
		return value
	}
	set("a", "value")
	set("b", "value")
	assert.EqualValues(t, 1, release("a", "b", "a"))
	embedded.FastForward(3 * time.Second)
	assert.EqualValues(t, 1, release("a", "b", "a"))
	for _, key := range []string{"a", "b"} {
		assert.Equal(t, "mark", get(key))
		assert.Equal(t, 7*time.Second, embedded.TTL(key))
	}

	set("b", "another")
	assert.Zero(t, release("a", "b"))
	assert.Equal(t, "mark", get("a"))
	assert.Equal(t, "another", get("b"))
	assert.Equal(t, time.Minute, embedded.TTL("b"))

	set("a", "value")
	assert.Zero(t, release("a", "b"))
	assert.False(t, embedded.Exists("a"), "a lock that was lost does not stay")

	embedded.FlushAll()
	assert.Zero(t, release("a"))
	assert.False(t, embedded.Exists("a"))
}

// The bounds count in whole milliseconds: up for the shortest, down for the longest time.
func TestBounds_round(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lock := &claimOn(prompt{}, &noOptions).Lock
		lock.lease.begin(sinceEpoch(), time.Minute)
		time.Sleep(time.Second) // until the reply
		lock.bound(&Options{HoldAtLeast: time.Second + 1, HoldAtMost: 3*time.Second - 1})
		_, granted, ok := lock.lease.beginRefresh(time.Minute)
		assert.True(t, ok)
		assert.Equal(t, 1999*time.Millisecond, granted, "from before the command")
		_, keeps := lock.keeping()
		assert.False(t, keeps, "not released")
		lock.lease.end(errReleased)
		call, keeps := lock.keeping()
		assert.True(t, keeps)
		assert.EqualValues(t, 1001, call.args[2], "from after its reply")
		time.Sleep(time.Second)
		call, _ = lock.keeping()
		assert.EqualValues(t, 1, call.args[2])
		time.Sleep(time.Nanosecond)
		_, keeps = lock.keeping()
		assert.False(t, keeps)
	})
}
