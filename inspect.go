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
	return infoOf(reply)
}

func infoOf(reply []any) (info Info, err error) {
	defer func() {
		// It is another's reply if it is not as inspect.lua says.
		if recover() != nil {
			info, err = Info{}, fmt.Errorf("redislock: the reply %v is not that of a lock's inspection", reply)
		}
	}()
	for _, entry := range reply[0].([]any) {
		holder := entry.([]any)
		limit := holder[2].(int64)
		info.Limit = max(info.Limit, int(limit))
		info.Holders = append(info.Holders, Holder{
			Value:  holder[0].(string),
			TTL:    time.Duration(holder[1].(int64)) * time.Millisecond,
			Shared: limit == sharedLimit,
		})
	}
	for _, entry := range reply[1].([]any) {
		waiter := entry.([]any)
		info.Waiters = append(info.Waiters, Waiter{Value: waiter[0].(string), Since: time.UnixMicro(waiter[1].(int64))})
	}
	return info, nil
}
