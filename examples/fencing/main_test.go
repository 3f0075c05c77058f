package main

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// The story checks what it says.
func TestRun(t *testing.T) {
	t.Run("embedded", func(t *testing.T) { assert.NoError(t, run(t.Context(), "")) })
	t.Run("real", func(t *testing.T) {
		server := redistest.Start(t)
		assert.NoError(t, run(t.Context(), server.Addr))
		assert.Zero(t, server.Client().DBSize(t.Context()).Val())
	})
}

func TestReports_write(t *testing.T) {
	db, err := openDB(t.Context())
	require.NoError(t, err)
	defer db.Close()
	server := redistest.Embedded(t)
	reports := &reports{db: db, locker: redislock.New(redistest.Client(t, server.Addr()))}
	var locks []*redislock.Lock // that of token n at index n-1
	for range 5 {
		lock, err := reports.lock(t.Context(), 1, time.Minute)
		require.NoError(t, err)
		require.NoError(t, lock.Release(t.Context()))
		locks = append(locks, lock)
	}
	for _, step := range []struct {
		fence   int
		refused bool
		stands  int64
	}{{2, false, 2}, {1, true, 2}, {2, false, 2}, {5, false, 5}, {4, true, 5}} {
		err := reports.write(t.Context(), locks[step.fence-1], 1, "body")
		assert.Equal(t, step.refused, errors.Is(err, errFenced), "%+v: %v", step, err)
		_, fence, err := read(t.Context(), db, 1)
		require.NoError(t, err)
		assert.Equal(t, step.stands, fence)
	}
}
