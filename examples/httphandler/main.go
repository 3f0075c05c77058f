// Command httphandler has an HTTP handler work under a lock: a report is made once at a time,
// whichever of the processes behind a load balancer gets the request.
//
// It serves on a port of its own and sends itself some requests. It uses an embedded server,
// or with -redis host:port a real one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// reports serves POST /reports/{id}.
type reports struct {
	locker *redislock.Client
	prefix string
	make   func(ctx context.Context, id string) error
}

// lockTTL is for how long a report is locked if this process dies. While it lives the
// watchdog refreshes the lock, so that it need not be as long as the making takes.
const lockTTL = 10 * time.Second

var watchdog = redislock.NewTickWatchdog(0)

func (r *reports) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	id := request.PathValue("id")
	opt := &redislock.Options{
		// A moment's patience. A request must not wait for its turn as long as it takes.
		RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(20*time.Millisecond), 2),
		Watchdog:      watchdog,
	}
	// The request's context ends when the client goes away. Then, and when the lock is lost,
	// the context of the work ends too.
	err := r.locker.Do(request.Context(), r.prefix+id, lockTTL, opt, func(ctx context.Context) error {
		return r.make(ctx, id)
	})
	switch {
	case err == nil:
		fmt.Fprintf(w, "report %s is made\n", id)
	case errors.Is(err, redislock.ErrNotObtained):
		w.Header().Set("Retry-After", "1")
		http.Error(w, "this report is being made", http.StatusConflict)
	case errors.Is(err, redislock.ErrLockNotHeld):
		http.Error(w, "the lock was lost: try again", http.StatusServiceUnavailable)
	case errors.Is(err, context.Canceled):
		// Nobody reads this.
	case errors.Is(err, errMaking):
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		http.Error(w, "locks are not available", http.StatusServiceUnavailable)
	}
}

var errMaking = errors.New("the report could not be made")

func main() {
	addr := flag.String("redis", "", "address of a Redis server, host:port (default: an embedded one)")
	flag.Parse()
	if err := run(*addr); err != nil {
		fmt.Fprintln(os.Stderr, "httphandler:", err)
		os.Exit(1)
	}
}

func run(addr string) error {
	stopRedis := func() {}
	if addr == "" {
		embedded, stop, err := redistest.RunEmbedded()
		if err != nil {
			return err
		}
		addr, stopRedis = embedded, stop
	}
	client := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true, MaxRetries: -1})
	defer client.Close()

	making, finish, ended := make(chan string), make(chan struct{}), make(chan error, 1)
	handler := &reports{
		locker: redislock.New(client),
		prefix: fmt.Sprintf("redislock-httphandler-%d:", os.Getpid()),
		make: func(ctx context.Context, id string) error {
			making <- id
			select {
			case <-finish:
				return nil
			case <-ctx.Done():
				ended <- ctx.Err()
				return ctx.Err()
			}
		},
	}
	mux := http.NewServeMux()
	mux.Handle("POST /reports/{id}", handler)
	server := httptest.NewServer(mux)
	defer server.Close()

	s := &story{url: server.URL + "/reports/", start: time.Now()}
	first := s.request(context.Background(), "7")
	s.tell("Anna asks for report %s: it is being made.", <-making)
	if err := s.expect("Ben asks for report 7 too", <-s.request(context.Background(), "7"), http.StatusConflict); err != nil {
		return err
	}
	other := s.request(context.Background(), "8")
	s.tell("Cleo asks for report %s: another lock, it is being made.", <-making)
	finish <- struct{}{}
	finish <- struct{}{}
	if err := errors.Join(s.expect("Anna's request", <-first, http.StatusOK), s.expect("Cleo's request", <-other, http.StatusOK)); err != nil {
		return err
	}

	gone, goAway := context.WithCancel(context.Background())
	given := s.request(gone, "7")
	<-making
	goAway()
	<-given
	s.tell("Ben asks for report 7, and goes away: the work ends, %q.", <-ended)
	again := s.request(context.Background(), "7")
	s.tell("Anna asks for report %s again: the lock was free.", <-making)
	finish <- struct{}{}
	if err := s.expect("Anna's request", <-again, http.StatusOK); err != nil {
		return err
	}

	stopRedis()
	_ = client.Close()
	return s.expect("Redis is away. Cleo asks for report 7", <-s.request(context.Background(), "7"), http.StatusServiceUnavailable)
}

// story is what clients of the handler see.
type story struct {
	url   string
	start time.Time
}

func (s *story) tell(format string, args ...any) {
	fmt.Printf("%6.2fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

func (s *story) expect(who string, got, want int) error {
	if got != want {
		return fmt.Errorf("%s: status %d instead of %d", who, got, want)
	}
	s.tell("%s: %d %s.", who, got, http.StatusText(got))
	return nil
}

// request asks for a report. The channel has the status, 0 if there is none.
func (s *story) request(ctx context.Context, id string) <-chan int {
	status := make(chan int, 1)
	go func() {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+id, nil)
		if err != nil {
			panic(err) // a URL of our own
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			status <- 0
			return
		}
		_ = response.Body.Close()
		status <- response.StatusCode
	}()
	return status
}
