package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bsm/redislock"
)

// lockTTL is for how long a report stays locked if this process dies. While it lives a watchdog
// refreshes the lock, so that it need not be as long as the making takes.
const lockTTL = 10 * time.Second

// reports serves POST /reports/{id}: of the requests for one report, one at a time makes it.
type reports struct {
	locker   *redislock.Client
	watchdog redislock.Watchdog // one for all requests
	prefix   string             // of the locks' keys
	create   func(ctx context.Context, id string) error

	// timeout is for the whole request. Without it the watchdog would keep the lock of one
	// that hangs for ever.
	timeout time.Duration
}

func (r *reports) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	// This context also ends when the client goes away.
	ctx, cancel := context.WithTimeout(request.Context(), r.timeout)
	defer cancel()
	opt := &redislock.Options{
		// A moment's patience. A queue of requests that wait for their turn would be a burden,
		// and most of their clients would not live to see it.
		RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(20*time.Millisecond), 2),
		Watchdog:      r.watchdog,
	}
	id := request.PathValue("id")
	var failed error
	err := r.locker.Do(ctx, r.prefix+id, lockTTL, opt, func(ctx context.Context) error {
		// This one ends when the lock is lost too.
		failed = r.create(ctx, id)
		return failed
	})
	switch {
	case err == nil:
		fmt.Fprintf(w, "report %s is made\n", id)
	case request.Context().Err() != nil: // nobody would read it
	case ctx.Err() != nil:
		http.Error(w, "this took too long", http.StatusGatewayTimeout)
	case errors.Is(err, redislock.ErrLockNotHeld):
		unavailable(w, "the lock was lost")
	case failed != nil:
		http.Error(w, failed.Error(), http.StatusInternalServerError)
	case errors.Is(err, redislock.ErrNotObtained):
		w.Header().Set("Retry-After", "1")
		http.Error(w, "this report is being made", http.StatusConflict)
	default: // Redis is away
		unavailable(w, "no locks at the moment")
	}
}

func unavailable(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", "5")
	http.Error(w, why, http.StatusServiceUnavailable)
}
