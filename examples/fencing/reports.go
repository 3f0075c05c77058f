package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/bsm/redislock"
)

// schema has a column for the fencing token beside what it protects.
const schema = `CREATE TABLE report (
	id    INTEGER PRIMARY KEY,
	body  TEXT    NOT NULL,
	fence INTEGER NOT NULL DEFAULT 0 -- the greatest fencing token that has written
)`

var errFenced = errors.New("a newer lock holder has written")

// reports is a table of reports, each of which has a lock.
type reports struct {
	db     *sql.DB
	locker *redislock.Client
	prefix string // of the keys in Redis
}

// lock obtains the lock of a report, with a fencing token. The counter has a key of its own
// in the same slot, and no TTL: it must outlive the locks.
func (r *reports) lock(ctx context.Context, id int, ttl time.Duration) (*redislock.Lock, error) {
	key := fmt.Sprintf("%s{report:%d}", r.prefix, id)
	return r.locker.Obtain(ctx, key, ttl, &redislock.Options{
		RetryStrategy: redislock.LinearBackoff(10 * time.Millisecond),
		FenceKey:      key + ":fence",
	})
}

// write writes a report, unless a newer holder of its lock has written it. Comparing and
// writing are one statement. The comparison is <=, not <: a holder may write several times.
func (r *reports) write(ctx context.Context, lock *redislock.Lock, id int, body string) error {
	result, err := r.db.ExecContext(ctx, `
		INSERT INTO report (id, body, fence) VALUES (?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET body = excluded.body, fence = excluded.fence
		WHERE report.fence <= excluded.fence`, id, body, lock.FenceToken())
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return errFenced
}
