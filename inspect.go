package redislock

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Info is what [Inspect] returns. The zero Info means that nobody holds the lock and nobody is in
// its queue.
type Info struct {
	// Holders are the holders of the lock: one, or several if the lock is shared or limited. Those
	// whose time ends first come first.
	Holders []Holder
	// Limit is the largest limit of the holders: 1 for an exclusive lock, 0 for a shared one and
	// without holders.
	Limit int
	// Waiters are the callers in the [FairQueue] of the key, in order. Redis does not know of
	// callers that wait in any other way.
	Waiters []Waiter
}

// A Holder is one holder of a lock.
type Holder struct {
	Value  string        // token and metadata, concatenated
	TTL    time.Duration // what is left, in whole milliseconds; negative if the key has no TTL
	Shared bool          // obtained with Options.Shared

	// Released is whether the holder has already released the lock. Its place stays taken, for TTL,
	// until Options.HoldAtLeast has passed; [Client.ReleaseByToken] does not free it.
	Released bool
}

// A Waiter is a caller that waits in a [FairQueue].
type Waiter struct {
	Value string    // token and metadata, concatenated
	Since time.Time // by the server's clock
}

// Inspect returns who holds the lock of a key and who is waiting for it. It runs one script, which
// changes nothing. The lock may be of any kind, including one that another library holds by the same
// algorithm.
//
// The answer may be out of date when it arrives: it is for people and dashboards, not for deciding
// what may be done. Whoever wants the lock has to obtain it.
//
// It returns the error of the Redis client, or a clear error if there is no client or key is empty.
func Inspect(ctx context.Context, client RedisClient, key string) (Info, error) {
	s := newServer(client)
	switch {
	case s.client == nil:
		return Info{}, errNoClient
	case key == "":
		return Info{}, errors.New("redislock: the key to inspect is empty: name a lock")
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
