//go:build unix

// Command leader runs a job in one of several processes: the one that is elected. When that one
// dies another takes over. It starts three processes, kills a leader, and stops another one for
// longer than its lock lasts. What each of them does is in candidate.go.
//
// They use an embedded server, or with -redis host:port a real one.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

func main() {
	addr := flag.String("redis", "", "address of a Redis server, host:port (default: an embedded one)")
	name := flag.String("candidate", "", "be the candidate of that name, until standard input ends")
	key := flag.String("key", fmt.Sprintf("redislock-leader-%d", os.Getpid()), "key of the lock")
	flag.Parse()
	var err error
	if *name != "" {
		err = stand(*addr, *key, *name)
	} else {
		err = run(*addr, *key)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "leader:", err)
		os.Exit(1)
	}
}

// stand is what the processes run.
func stand(addr, key, name string) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	client := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	defer client.Close()
	fmt.Println(name, "stands by")
	err := newCandidate(redislock.New(client), key, name).stand(ctx)
	if ctx.Err() != nil {
		return nil // that is why it has ended
	}
	return err
}

// run starts the processes and tells what becomes of them.
func run(addr, key string) error {
	if addr == "" {
		embedded, stop, err := redistest.RunEmbedded()
		if err != nil {
			return err
		}
		defer stop()
		addr = embedded
	}
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	if err := client.Ping(context.Background()).Err(); err != nil {
		return err
	}
	s, err := newStory()
	if err != nil {
		return err
	}
	defer s.end()
	for _, name := range []string{"Anna", "Ben", "Cleo"} {
		if err := s.startProcess(name, "-redis", addr, "-key", key, "-candidate", name); err != nil {
			return err
		}
	}
	for _, chapter := range []func() error{s.elect, s.last, s.kill, s.suspend} {
		if err := chapter(); err != nil {
			return err
		}
	}
	return nil
}
