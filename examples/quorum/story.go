package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
)

const ttl = 2 * time.Second

// story is about Anna, who holds a lock, and Ben, who wants it.
type story struct {
	clients []*redis.Client // of the nodes
	locker  *redislock.Client
	key     string
	lock    *redislock.Lock
}

func newStory(addrs []string) *story {
	s := &story{key: fmt.Sprintf("redislock-quorum-%d", os.Getpid())}
	s.locker, s.clients = connect(addrs)
	return s
}

func (s *story) close() {
	for _, client := range s.clients {
		_ = client.Close()
	}
}

func (s *story) obtain(ctx context.Context) (err error) {
	if s.lock, err = s.locker.Obtain(ctx, s.key, ttl, nil); err != nil {
		return err
	}
	fmt.Printf("Anna obtains the lock from a majority of %d servers, for %v.\n", len(s.clients), ttl)
	if err := s.awaitAll(ctx); err != nil {
		return err
	}
	if _, err := s.locker.Obtain(ctx, s.key, ttl, nil); !errors.Is(err, redislock.ErrNotObtained) {
		return fmt.Errorf("a second caller was not refused: %v", err)
	}
	fmt.Println("Ben is refused.")
	return nil
}

// awaitAll waits until all nodes that answer have granted the lock: a refresh takes it on those
// that were too slow. Only this story needs that, since it stops a node right afterwards.
func (s *story) awaitAll(ctx context.Context) error {
	for _, client := range s.clients {
		for {
			if n, err := client.Exists(ctx, s.key).Result(); err != nil || n > 0 {
				break
			}
			if err := s.lock.Refresh(ctx, ttl, nil); err != nil {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

// keep runs while a minority of the nodes is down.
func (s *story) keep(ctx context.Context) error {
	if err := s.lock.Refresh(ctx, ttl, nil); err != nil {
		return err
	}
	fmt.Println("Anna refreshes the lock.")
	return s.locker.Do(ctx, s.key+"-another", ttl, nil, func(context.Context) error {
		fmt.Println("Ben obtains another lock.")
		return nil
	})
}

// lose runs while a majority is down.
func (s *story) lose(ctx context.Context) error {
	err := s.lock.Refresh(ctx, ttl, nil)
	var node *redislock.NodeError
	if !errors.As(err, &node) {
		return fmt.Errorf("the error names no node: %v", err)
	}
	fmt.Printf("Anna cannot refresh the lock:\n  %v\n", err)
	<-s.lock.Done()
	fmt.Printf("It ends, and she knows: %v.\n", context.Cause(s.lock.Context(ctx)))

	if _, err = s.locker.Obtain(ctx, s.key, ttl, nil); !errors.As(err, &node) {
		return fmt.Errorf("without a majority Obtain must name the nodes that failed: %v", err)
	}
	fmt.Printf("Ben cannot obtain it:\n  %v\n", err)
	return nil
}

// obtainAgain runs when all nodes are back.
func (s *story) obtainAgain(ctx context.Context) error {
	lock, err := s.locker.Obtain(ctx, s.key, ttl, &redislock.Options{
		RetryStrategy: redislock.LinearBackoff(20 * time.Millisecond),
	})
	if err != nil {
		return err
	}
	fmt.Println("Ben obtains the lock.")
	if err := s.lock.Release(ctx); !errors.Is(err, redislock.ErrLockNotHeld) {
		return fmt.Errorf("a lock that was lost was released: %v", err)
	}
	fmt.Printf("Anna cannot release what is Ben's: %v.\n", redislock.ErrLockNotHeld)
	return lock.Release(ctx)
}
