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
	released, err := releaseAll(client, key, tokens)
	switch {
	case err != nil:
		return redisFailure(err)
	case released > 0:
		return nil
	case *force:
		return fail(exitNotHeld, "nobody holds %q any more", key)
	default:
		return fail(exitNotHeld, "%q is not held by token %q", key, *token)
	}
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

// releaseAll releases the lock of each of the tokens, and returns how many of them held it: of several
// holders, some may have released it themselves since somebody looked.
func releaseAll(client redis.UniversalClient, key string, tokens []string) (released int, _ error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookPatience)
	defer cancel()
	for _, token := range tokens {
		err := redislock.New(client).ReleaseByToken(ctx, key, token)
		switch {
		case err == nil:
			released++
		case !errors.Is(err, redislock.ErrLockNotHeld):
			return released, err
		}
	}
	return released, nil
}
