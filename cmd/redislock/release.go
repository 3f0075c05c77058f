//go:build unix

package main

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
)

func release(args []string) error {
	set, redisURL := flags("release", "[flags] KEY -token T | -force")
	token := set.String("token", "", "the `token` that holds the lock, as inspect prints it")
	force := set.Bool("force", false, "release the lock whoever holds it")
	key, err := parseKey(set, args)
	if err != nil {
		return err
	}
	if (*token == "") != *force {
		return fail(exitUsage, "whose lock? Give either -token, as inspect prints it, or -force")
	}
	client, err := connect(*redisURL)
	if err != nil {
		return err
	}
	defer client.Close()
	tokens := []string{*token}
	if *force {
		if tokens, err = holders(client, key); err != nil {
			return err
		}
	}
	return releaseAll(client, key, tokens)
}

// holders returns the values that hold a lock. A whole value works as a token, and only its holder has it.
func holders(client redis.UniversalClient, key string) (values []string, _ error) {
	s, err := look(context.Background(), client, key)
	if err != nil {
		return nil, redisFailure(err)
	}
	if len(s.holders) == 0 {
		return nil, fail(exitNotHeld, "nobody holds %q", key)
	}
	for _, h := range s.holders {
		if !h.released {
			values = append(values, h.value)
		}
	}
	if len(values) == 0 {
		return nil, fail(exitNotHeld, "%q has been released already; it stays for another %v because of -at-least",
			key, s.holders[0].ttl.Round(time.Second))
	}
	return values, nil
}

func releaseAll(client redis.UniversalClient, key string, tokens []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), lookPatience)
	defer cancel()
	for _, token := range tokens {
		err := redislock.New(client).ReleaseByToken(ctx, key, token)
		if errors.Is(err, redislock.ErrLockNotHeld) {
			return fail(exitNotHeld, "%q is not held by token %q", key, token)
		}
		if err != nil {
			return redisFailure(err)
		}
	}
	return nil
}
