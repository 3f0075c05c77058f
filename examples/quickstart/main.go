// Command quickstart shows what redislock does, in a few seconds: on an embedded
// server, or with -redis host:port on a real one. What you would copy is in lock.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

func main() {
	addr := flag.String("redis", "", "address of a Redis server, host:port (default: an embedded one)")
	flag.Parse()
	if err := run(context.Background(), *addr); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr string) error {
	if addr == "" {
		embedded, stop, err := redistest.RunEmbedded()
		if err != nil {
			return err
		}
		defer stop()
		addr = embedded
		fmt.Println("Using an embedded server; -redis host:port uses a real one.")
	} else {
		fmt.Println("Using the server at", addr)
	}
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	if err := client.Ping(ctx).Err(); err != nil {
		return err
	}
	s := &story{
		client: client,
		locker: redislock.New(client),
		locks:  newLocks(client),
		key:    fmt.Sprintf("redislock-quickstart-%d", os.Getpid()),
		start:  time.Now(),
	}
	for _, chapter := range []func(context.Context) error{s.obtain, s.expire, s.wait, s.queue, s.watch, s.lose} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	s.stats()
	return nil
}

// story is about Anna, Ben and others, who want the same lock.
type story struct {
	client *redis.Client
	locker *redislock.Client
	locks  *locks
	key    string
	start  time.Time
}

func (s *story) chapter(title string) {
	fmt.Printf("\n%s\n", title)
}

func (s *story) tell(format string, args ...any) {
	fmt.Printf("%6.2fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

func (s *story) obtain(ctx context.Context) error {
	s.chapter("One holder")
	lock, err := s.locker.Obtain(ctx, s.key, time.Minute, nil)
	if err != nil {
		return err
	}
	s.tell("Anna obtains the lock for a minute; her token is %s.", lock.Token())

	if _, err = s.locker.Obtain(ctx, s.key, time.Minute, nil); !errors.Is(err, redislock.ErrNotObtained) {
		return fmt.Errorf("the lock was not refused: %v", err)
	}
	s.tell("Ben is refused: %q.", err)
	work := func(context.Context) error { return errors.New("worked without the lock") }
	if ran, err := s.locks.ifFree(ctx, s.key, work); ran || err != nil {
		return fmt.Errorf("the lock was not refused: %v", err)
	}
	s.tell("Cleo does without: she would have worked only if the lock had been free.")

	if err := lock.Refresh(ctx, 5*time.Minute, nil); err != nil {
		return err
	}
	left, err := lock.TTL(ctx)
	if err != nil {
		return err
	}
	s.tell("Anna refreshes it for five minutes; %.0f seconds are left.", left.Seconds())

	if err := lock.Release(ctx); err != nil {
		return err
	}
	s.tell("Anna releases it.")
	return nil
}

func (s *story) expire(ctx context.Context) error {
	s.chapter("A holder that is too slow")
	const ttl = 300 * time.Millisecond
	slow, err := s.locker.Obtain(ctx, s.key, ttl, nil)
	if err != nil {
		return err
	}
	s.tell("Anna obtains the lock for %v and takes too long.", ttl)
	time.Sleep(2 * ttl)

	quick, err := s.locker.Obtain(ctx, s.key, time.Minute, nil)
	if err != nil {
		return err
	}
	s.tell("The lock has expired: Ben obtains it.")
	if err := slow.Release(ctx); !errors.Is(err, redislock.ErrLockNotHeld) {
		return fmt.Errorf("a lock that was not held was released: %v", err)
	}
	s.tell("Anna cannot release what is Ben's: %q.", redislock.ErrLockNotHeld)
	return quick.Release(ctx)
}

func (s *story) wait(ctx context.Context) error {
	s.chapter("Waiting")
	if _, err := s.locker.Obtain(ctx, s.key, 500*time.Millisecond, nil); err != nil {
		return err
	}
	s.tell("Anna obtains the lock for half a second and crashes: she never releases it.")
	asked := time.Now()
	lock, err := s.locker.Obtain(ctx, s.key, time.Minute, &redislock.Options{
		RetryStrategy: redislock.ExponentialBackoff(16*time.Millisecond, 100*time.Millisecond),
	})
	if err != nil {
		return err
	}
	s.tell("Ben tries again until he has it, %v later.", time.Since(asked).Round(10*time.Millisecond))
	return lock.Release(ctx)
}

func (s *story) queue(ctx context.Context) error {
	s.chapter("Five in a queue")
	lock, err := s.locker.Obtain(ctx, s.key, time.Minute, &redislock.Options{RetryStrategy: redislock.FairQueue()})
	if err != nil {
		return err
	}
	s.tell("Anna holds the lock.")
	served := make(chan error, 5)
	for i, name := range []string{"Ben", "Cleo", "Dan", "Eve", "Finn"} {
		go func() {
			served <- s.locks.inTurn(ctx, s.key, func(context.Context) error {
				s.tell("%s has it, and works for 50ms.", name)
				time.Sleep(50 * time.Millisecond)
				return nil
			})
		}()
		if err := redistest.AwaitQueue(ctx, s.client, s.key, i+1); err != nil {
			return err
		}
		s.tell("%s asks, and waits.", name)
	}
	s.tell("Anna releases it: first come, first served.")
	if err := lock.Release(ctx); err != nil {
		return err
	}
	for range 5 {
		if err := <-served; err != nil {
			return err
		}
	}
	return nil
}

func (s *story) watch(ctx context.Context) error {
	s.chapter("A long job with a watchdog")
	const ttl = 300 * time.Millisecond
	lock, err := s.locker.Obtain(ctx, s.key, ttl, &redislock.Options{
		Watchdog: redislock.NewTickWatchdog(ttl / 3),
	})
	if err != nil {
		return err
	}
	s.tell("Anna obtains the lock for %v; a watchdog refreshes it every %v.", ttl, ttl/3)
	for range 3 {
		time.Sleep(ttl)
		left, err := lock.TTL(ctx)
		if err != nil {
			return err
		}
		s.tell("It has %v left.", left)
	}
	if err := lock.Release(ctx); err != nil {
		return err
	}
	s.tell("Anna releases it; the watchdog has stopped.")
	return nil
}

func (s *story) lose(ctx context.Context) error {
	s.chapter("A lock that is lost")
	opt := &redislock.Options{Watchdog: redislock.NewTickWatchdog(100 * time.Millisecond)}
	err := s.locker.Do(ctx, s.key, time.Minute, opt, func(ctx context.Context) error {
		s.tell("Anna works under Do, which gives her a context.")
		time.AfterFunc(200*time.Millisecond, func() {
			s.tell("Somebody deletes the key.")
			s.client.Del(context.Background(), s.key)
		})
		select {
		case <-ctx.Done():
			s.tell("The watchdog notices, and her context ends: %q.", context.Cause(ctx))
			return ctx.Err()
		case <-time.After(10 * time.Second):
			return nil
		}
	})
	if !errors.Is(err, redislock.ErrLockNotHeld) {
		return fmt.Errorf("the loss was not noticed: %v", err)
	}
	s.tell("Do returns an error for which errors.Is(err, ErrLockNotHeld) holds.")
	return nil
}

func (s *story) stats() {
	s.chapter("What GetStats counted")
	stats := redislock.GetStats()
	row := func(name string, status redislock.Status) {
		fmt.Printf("  %-8s %3d success %3d failed %3d error %3d cancel\n",
			name, status.Success, status.Failed, status.Error, status.Cancel)
	}
	row("obtain", stats.Obtain)
	row("refresh", stats.Refresh)
	row("release", stats.Release)
	fmt.Printf("  waits: %d; locks watched: %d, no longer watched: %d; watchdog refreshes: %d; locks lost: %d\n",
		stats.Backoff, stats.Watchdog, stats.WatchdogDone, stats.WatchdogTick, stats.Lost)
}
