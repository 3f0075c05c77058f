package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// What the story leaves out: work that takes too long, and locks that are lost.
func TestReports(t *testing.T) {
	server := redistest.Embedded(t)
	locker := redislock.New(redistest.Client(t, server.Addr()))
	loseLock := func() { assert.True(t, server.Del("report:7")) }

	tests := map[string]struct {
		create func(ctx context.Context) error
		status int
	}{
		"done":                   {func(context.Context) error { return nil }, http.StatusOK},
		"fails":                  {func(context.Context) error { return errors.New("no data") }, http.StatusInternalServerError},
		"too long":               {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, http.StatusGatewayTimeout},
		"lost, done":             {func(context.Context) error { loseLock(); return nil }, http.StatusServiceUnavailable},
		"lost, fails":            {func(context.Context) error { loseLock(); return errors.New("no data") }, http.StatusServiceUnavailable},
		"nested lock is refused": {func(context.Context) error { return redislock.ErrNotObtained }, http.StatusInternalServerError},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			handler := &reports{
				locker:   locker,
				watchdog: redislock.NewTickWatchdog(0),
				prefix:   "report:",
				create:   func(ctx context.Context, id string) error { return test.create(ctx) },
				timeout:  time.Second,
			}
			request := httptest.NewRequest(http.MethodPost, "/reports/7", nil)
			request.SetPathValue("id", "7")
			response := httptest.NewRecorder()
			handler.ServeHTTP(response, request)
			assert.Equal(t, test.status, response.Code, response.Body)
			assert.NotContains(t, response.Body.String(), "no data", "internal errors stay inside")
			assert.Empty(t, server.Keys(), "the lock is free")
		})
	}
}
