package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/bsm/redislock"
)

// lockTTL is how long a report stays locked if this process dies. While the process lives, a
// watchdog refreshes the lock, so making a report may take longer.
const lockTTL = 10 * time.Second

// reports serves POST /reports/{id}. Only one request at a time makes a given report.
type reports struct {
	locker   *redislock.Client
	watchdog redislock.Watchdog // one for all requests
	prefix   string             // of the locks' keys
	create   func(ctx context.Context, id string) error

	// timeout bounds the whole request. Without it, the watchdog would keep the lock of a request
	// that hangs forever.
	timeout time.Duration
}

func (r *reports) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	// This context also ends when the client goes away.
	ctx, cancel := context.WithTimeout(request.Context(), r.timeout)
	defer cancel()
	opt := &redislock.Options{
		// Be patient for a moment only. A queue of waiting requests would be a burden, and most
		// clients would not wait that long.
		RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(20*time.Millisecond), 2),
		Watchdog:      r.watchdog,
	}
	id := request.PathValue("id")
	var failed error
	err := r.locker.Do(ctx, r.prefix+id, lockTTL, opt, func(ctx context.Context) error {
		// This context also ends if the lock is lost.
		failed = r.create(ctx, id)
		return failed
	})
	switch {
	case err == nil:
		fmt.Fprintf(w, "report %s is done\n", id)
	case request.Context().Err() != nil: // the client has gone
	case ctx.Err() != nil:
		http.Error(w, "making this report took too long", http.StatusGatewayTimeout)
	case errors.Is(err, redislock.ErrLockNotHeld):
		unavailable(w, "the lock was lost")
	case failed != nil:
		log.Printf("making report %q: %v", id, failed) // the details are not for the client
		http.Error(w, "internal error", http.StatusInternalServerError)
	case errors.Is(err, redislock.ErrNotObtained):
		w.Header().Set("Retry-After", "1")
		http.Error(w, "somebody else is making this report", http.StatusConflict)
	default: // Redis is not available
		unavailable(w, "locks are not available")
	}
}

func unavailable(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", "5")
	http.Error(w, why, http.StatusServiceUnavailable)
}
