// Command quickstart shows what redislock does, in a few seconds: on an embedded
// server, or with -redis host:port on a real one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
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
		fmt.Println("On an embedded server; -redis host:port takes a real one.")
	} else {
		fmt.Println("On the server at", addr)
	}
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	if err := client.Ping(ctx).Err(); err != nil {
		return err
	}
	s := &story{
		client: client,
		locker: redislock.New(client),
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

// story is two callers, Anna and Ben, who want the same lock.
type story struct {
	client *redis.Client
	locker *redislock.Client
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

	if err := lock.Refresh(ctx, time.Hour, nil); err != nil {
		return err
	}
	left, err := lock.TTL(ctx)
	if err != nil {
		return err
	}
	s.tell("Anna refreshes it; it has %v left.", left.Round(time.Second))

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
	s.tell("Anna obtains the lock for %v and dawdles.", ttl)
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
	opt := &redislock.Options{RetryStrategy: redislock.FairQueue()}
	lock, err := s.locker.Obtain(ctx, s.key, time.Minute, opt)
	if err != nil {
		return err
	}
	s.tell("Anna holds the lock.")
	served := make(chan error)
	for _, name := range []string{"Ben", "Cleo", "Dan", "Eve", "Finn"} {
		waits := redislock.GetStats().Backoff
		go func() {
			served <- s.locker.Do(ctx, s.key, time.Minute, opt, func(context.Context) error {
				s.tell("%s has it, and works for 50ms.", name)
				time.Sleep(50 * time.Millisecond)
				return nil
			})
		}()
		for redislock.GetStats().Backoff == waits {
			time.Sleep(time.Millisecond)
		}
		s.tell("%s asks, and waits.", name)
	}
	s.tell("Anna releases it: whoever came first is next.")
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
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	s.tell("Anna obtains the lock for %v; a watchdog refreshes it each %v.", ttl, ttl/3)
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
		s.tell("Anna works under Do, which gives her work a context.")
		time.AfterFunc(200*time.Millisecond, func() {
			s.tell("Somebody deletes the key.")
			s.client.Del(context.Background(), s.key)
		})
		select {
		case <-ctx.Done():
			s.tell("The watchdog notices and her context ends: %q.", context.Cause(ctx))
			return ctx.Err()
		case <-time.After(10 * time.Second):
			return nil
		}
	})
	if !errors.Is(err, redislock.ErrLockNotHeld) {
		return fmt.Errorf("the loss was not noticed: %v", err)
	}
	s.tell("Do tells of it as well: errors.Is(err, ErrLockNotHeld).")
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
	fmt.Printf("  %d waits; %d locks watched, %d of them done, %d refreshes tried; %d locks lost\n",
		stats.Backoff, stats.Watchdog, stats.WatchdogDone, stats.WatchdogTick, stats.Lost)
}
