package main

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

// What the story says is checked by the story.
func TestRun(t *testing.T) {
	t.Run("embedded", func(t *testing.T) { assert.NoError(t, run(t.Context(), "")) })
	t.Run("real", func(t *testing.T) {
		server := redistest.Start(t)
		assert.NoError(t, run(t.Context(), server.Addr))
		assert.Zero(t, server.Client().DBSize(t.Context()).Val())
	})
}

func TestReports_write(t *testing.T) {
	reports, err := openReports(t.Context())
	require.NoError(t, err)
	defer reports.db.Close()
	for _, step := range []struct {
		fence   int64
		refused bool
		stands  int64
	}{{2, false, 2}, {1, true, 2}, {2, false, 2}, {5, false, 5}, {4, true, 5}} {
		err := reports.write(t.Context(), 1, "body", step.fence)
		assert.Equal(t, step.refused, errors.Is(err, errFenced), "%+v: %v", step, err)
		_, fence, err := reports.read(t.Context(), 1)
		require.NoError(t, err)
		assert.Equal(t, step.stands, fence)
	}
}
