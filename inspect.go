package redislock

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Info is what [Inspect] finds out about a key. The zero Info says that nobody holds it and
// nobody waits for it.
type Info struct {
	// Holders are those who hold the lock: one, or several of a shared or limited lock, those
	// first whose time ends first.
	Holders []Holder
	// Limit is the largest limit of the holders: 1 of an exclusive lock, 0 of a shared one
	// and if there are no holders.
	Limit int
	// Waiters are those in the [FairQueue] of the key, in order. Callers that wait in any other way
	// are not known to Redis.
	Waiters []Waiter
}

// A Holder is one who holds a lock.
type Holder struct {
	Value  string        // token and metadata, as one
	TTL    time.Duration // that is left, in whole milliseconds; negative if the key has none
	Shared bool          // it holds the lock with Options.Shared

	// Released is whether the holder has released the lock, which nobody can obtain before
	// its Options.HoldAtLeast is over.
	Released bool
}

// A Waiter is one who waits in a [FairQueue].
type Waiter struct {
	Value string    // token and metadata, as one
	Since time.Time // by the server's clock
}

// Inspect tells who holds the lock of a key and who waits for it, in one script that changes
// nothing. The lock may be of any kind; one that another library holds by the same algorithm is
// found too.
//
// The answer is old when it arrives: it is for people and dashboards, not for deciding what may be
// done. Whoever wants the lock has to obtain it.
//
// It returns the error of the Redis client, and an error that says so if there is no client or key
// is empty.
func Inspect(ctx context.Context, client RedisClient, key string) (Info, error) {
	s := newServer(client)
	switch {
	case s.client == nil:
		return Info{}, errNoClient
	case key == "":
		return Info{}, errors.New("redislock: the key to inspect is empty: a lock has a name")
	}
	keys := []string{key}
	if s.besideKeys(key) {
		keys = queueKeys(key)
	}
	reply, err := inspectScript.Run(ctx, s.client, keys).Slice()
	if err != nil {
		return Info{}, err
	}
	if len(reply) != 2 {
		return Info{}, fmt.Errorf("redislock: %v is not the reply of inspect.lua", reply)
	}
	var info Info
	for _, row := range rows(reply[0], 3) {
		value, _ := row[0].(string)
		ttl, _ := row[1].(int64)
		limit, _ := row[2].(int64)
		info.Limit = max(info.Limit, int(limit))
		value, released := unmarked(value)
		info.Holders = append(info.Holders, Holder{value, time.Duration(ttl) * time.Millisecond, limit == sharedLimit, released})
	}
	for _, row := range rows(reply[1], 2) {
		value, _ := row[0].(string)
		since, _ := row[1].(int64)
		info.Waiters = append(info.Waiters, Waiter{value, time.UnixMicro(since)})
	}
	return info, nil
}

// rows returns the lists of that length in a list.
func rows(list any, length int) (rows [][]any) {
	entries, _ := list.([]any)
	for _, entry := range entries {
		if row, _ := entry.([]any); len(row) == length {
			rows = append(rows, row)
		}
	}
	return rows
}
