package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
)

const (
	turnWorkers = 8
	turnHold    = 25 * time.Millisecond
	turnRest    = 25 * time.Millisecond // between two turns of a worker
	turnSpan    = 2 * time.Second
)

// A turn is a worker's wait for a lock and the time that it holds the lock, counted from the start. It
// ends at turnSpan at the latest.
type turn struct {
	worker             int
	asked, held, ended time.Duration // held is turnSpan if it never was
}

func (t turn) wait() time.Duration { return t.held - t.asked }

// drawQueue draws how workers with clients of their own, as if in processes of their own, share a
// lock: in a queue, and by polling.
func drawQueue(ctx context.Context, addr string) (string, error) {
	const row, panel, top = 17, turnWorkers*17 + 62, 30
	c := newCanvas(turnSpan, 2*panel+12)
	for i, way := range []struct {
		title    string
		strategy func() redislock.RetryStrategy
	}{
		{"FairQueue()", redislock.FairQueue},
		{"ExponentialBackoff(16ms, 128ms)", func() redislock.RetryStrategy {
			return redislock.ExponentialBackoff(16*time.Millisecond, 128*time.Millisecond)
		}},
	} {
		turns, err := takeTurns(ctx, addr, way.strategy)
		if err != nil {
			return "", err
		}
		y := i*panel + top
		longest := turns[0]
		for _, t := range turns {
			if t.wait() > longest.wait() {
				longest = t
			}
		}
		orMore := ""
		if longest.held == turnSpan {
			orMore = " or more"
		}
		c.text(leftMargin, y-9, "start", "%s: the longest wait is %v%s", way.title, longest.wait().Round(10*time.Millisecond), orMore)
		c.axis(500*time.Millisecond, y, y+turnWorkers*row)
		for worker := range turnWorkers {
			c.text(leftMargin-10, y+worker*row+12, "end", "worker %d", worker+1)
		}
		for _, t := range turns {
			color := colorWaits
			if t == longest {
				color = colorLong
			}
			c.bar(t.asked, t.held, y+t.worker*row+6, 5, color)
			if t.held < turnSpan {
				c.bar(t.held, t.ended, y+t.worker*row+2, 13, colorHeld)
			}
		}
	}
	legend := 2*panel + 4
	c.text(leftMargin, legend, "start", "%d workers, who hold the lock for %v and rest for %v. Red: holds the lock. Grey: waits. Dark grey: the longest wait.",
		turnWorkers, turnHold, turnRest)
	return c.done(), nil
}

// takeTurns makes the workers want one lock until turnSpan has passed.
func takeTurns(ctx context.Context, addr string, strategy func() redislock.RetryStrategy) ([]turn, error) {
	ctx, cancel := context.WithTimeout(ctx, turnSpan)
	defer cancel()
	var (
		mu      sync.Mutex
		turns   []turn
		failed  error
		workers sync.WaitGroup
	)
	start := time.Now()
	for worker := range turnWorkers {
		workers.Go(func() {
			client := redis.NewClient(&redis.Options{Addr: addr})
			defer client.Close()
			locker := redislock.New(client)
			for ctx.Err() == nil {
				t := turn{worker: worker, asked: time.Since(start), held: turnSpan, ended: turnSpan}
				err := locker.Do(ctx, "bench:picture", 10*time.Second, &redislock.Options{RetryStrategy: strategy()},
					func(context.Context) error {
						t.held = time.Since(start)
						time.Sleep(turnHold)
						t.ended = time.Since(start)
						return nil
					})
				mu.Lock()
				if t.held = min(t.held, turnSpan); t.asked < turnSpan {
					turns = append(turns, t)
				}
				if ctx.Err() == nil {
					failed = errors.Join(failed, err)
				}
				mu.Unlock()
				time.Sleep(turnRest)
			}
		})
	}
	workers.Wait()
	return turns, failed
}
