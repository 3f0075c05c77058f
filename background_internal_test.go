package redislock

import (
	"bytes"
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// known reports whether a Redis client has a background.
func known(client RedisClient) bool {
	backgrounds.mu.Lock()
	defer backgrounds.mu.Unlock()
	return backgrounds.all[client] != nil
}

// A Redis client is forgotten once nothing goes on for it, whatever that was.
func TestBackground_closes(t *testing.T) {
	for name, use := range map[string]func(t *testing.T, c *Client){
		"watched": func(t *testing.T, c *Client) {
			lock, err := c.Obtain(t.Context(), "key", time.Minute, &Options{Watchdog: NewTickWatchdog(time.Second)})
			require.NoError(t, err)
			time.Sleep(time.Minute)
			require.NoError(t, lock.Release(t.Context()))
		},
		"served at once": func(t *testing.T, c *Client) {
			_, err := c.Obtain(t.Context(), "key", time.Minute, &Options{RetryStrategy: FairQueue()})
			require.NoError(t, err)
		},
		"not obtained in a queue": func(t *testing.T, c *Client) {
			ctx, cancel := context.WithTimeout(t.Context(), 1)
			defer cancel()
			w := newWaiter(c.servers.(*server).newClaim(c, []string{"key"}, &noOptions), time.Minute, &Options{})
			w.listen()
			_, err := w.await(ctx)
			require.ErrorIs(t, err, ErrNotObtained)
		},
		"orphan": func(_ *testing.T, c *Client) {
			c.servers.(*server).newClaim(c, []string{"key"}, &noOptions).releaseOrphan()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &answering{start: time.Now(), reply: 1}
				use(t, New(server))
				time.Sleep(time.Minute)
				assert.False(t, known(server))
			})
		})
	}
}

// Who has found a background that closes before it can be locked gets the next.
func TestLockBackground(t *testing.T) {
	servers := newServer(&answering{})
	first := lockBackground(servers)
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			b := lockBackground(servers)
			assert.False(t, b.closed)
			b.unlock()
		})
	}
	require.Eventually(t, func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		return bytes.Count(stacks, []byte("[sync.Mutex.Lock")) >= 8
	}, 10*time.Second, time.Millisecond)
	first.unlock()
	users.Wait()
	assert.True(t, first.closed)
	assert.False(t, known(servers.client))
}
