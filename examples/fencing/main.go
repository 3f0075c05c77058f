// Command fencing shows how a row of a database refuses the write of a holder that was paused
// for longer than its lock lasted. The database is SQLite, in memory; the locks are on an
// embedded server, or with -redis host:port on a real one.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// reports is a table of them, one a row.
type reports struct {
	db *sql.DB
}

func openReports(ctx context.Context) (*reports, error) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // each connection would have a database of its own
	_, err = db.ExecContext(ctx, `CREATE TABLE report (
		id    INTEGER PRIMARY KEY,
		body  TEXT    NOT NULL,
		fence INTEGER NOT NULL DEFAULT 0 -- the greatest fencing token that has written
	)`)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &reports{db}, nil
}

var errFenced = errors.New("somebody with a newer lock has written")

// write writes a report unless somebody who obtained the lock later has. The comparison and
// the write are one statement. It is <=, not <: a holder may write several times.
func (r *reports) write(ctx context.Context, id int, body string, fence int64) error {
	result, err := r.db.ExecContext(ctx, `
		INSERT INTO report (id, body, fence) VALUES (?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET body = excluded.body, fence = excluded.fence
		WHERE report.fence <= excluded.fence`, id, body, fence)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return errFenced
}

// writeUnfenced is what one should not do.
func (r *reports) writeUnfenced(ctx context.Context, id int, body string) error {
	_, err := r.db.ExecContext(ctx, `UPDATE report SET body = ? WHERE id = ?`, body, id)
	return err
}

func (r *reports) read(ctx context.Context, id int) (body string, fence int64, err error) {
	err = r.db.QueryRowContext(ctx, `SELECT body, fence FROM report WHERE id = ?`, id).Scan(&body, &fence)
	return body, fence, err
}

func main() {
	addr := flag.String("redis", "", "address of a Redis server, host:port (default: an embedded one)")
	flag.Parse()
	if err := run(context.Background(), *addr); err != nil {
		fmt.Fprintln(os.Stderr, "fencing:", err)
		os.Exit(1)
	}
}

// ttl is shorter than Anna is paused.
const ttl = 300 * time.Millisecond

func run(ctx context.Context, addr string) error {
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
	reports, err := openReports(ctx)
	if err != nil {
		return err
	}
	defer reports.db.Close()

	const id = 7
	key := fmt.Sprintf("redislock-fencing-%d:{report:%d}", os.Getpid(), id)
	// One counter for each lock, in the same slot. It outlives the locks. (It is only the
	// example that deletes it.)
	fenceKey := key + ":fence"
	defer client.Del(context.WithoutCancel(ctx), fenceKey)
	locker := redislock.New(client)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // without a deadline it would wait for the TTL
	defer cancel()
	obtain := func(who string) (*redislock.Lock, error) {
		lock, err := locker.Obtain(ctx, key, ttl, &redislock.Options{
			RetryStrategy: redislock.LinearBackoff(10 * time.Millisecond),
			FenceKey:      fenceKey,
		})
		if err == nil {
			fmt.Printf("%s obtains the lock; the fencing token is %d.\n", who, lock.FenceToken())
		}
		return lock, err
	}
	expect := func(who, body string) error {
		got, fence, err := reports.read(ctx, id)
		if err == nil && got != body {
			err = fmt.Errorf("the report is %q instead of %q", got, body)
		}
		if err == nil {
			fmt.Printf("  %s The report is %q, fence %d.\n", who, got, fence)
		}
		return err
	}

	anna, err := obtain("Anna")
	if err != nil {
		return err
	}
	if err := reports.write(ctx, id, "Anna's draft", anna.FenceToken()); err != nil {
		return err
	}
	if err := expect("She writes.", "Anna's draft"); err != nil {
		return err
	}
	fmt.Printf("Anna is paused for longer than the TTL of %v.\n", ttl)
	ben, err := obtain("Ben")
	if err != nil {
		return err
	}
	if err := reports.write(ctx, id, "Ben's report", ben.FenceToken()); err != nil {
		return err
	}
	if err := expect("He writes.", "Ben's report"); err != nil {
		return err
	}

	fmt.Println("Anna goes on, and writes before she looks at her lock.")
	if err := reports.write(ctx, id, "Anna's report", anna.FenceToken()); !errors.Is(err, errFenced) {
		return fmt.Errorf("the write of an old holder was not refused: %v", err)
	}
	if err := expect(fmt.Sprintf("She is refused: %v.", errFenced), "Ben's report"); err != nil {
		return err
	}
	if err := reports.write(ctx, id, "Ben's report, 2nd edition", ben.FenceToken()); err != nil {
		return err
	}
	if err := expect("Ben may write again.", "Ben's report, 2nd edition"); err != nil {
		return err
	}
	if err := ben.Release(ctx); err != nil {
		return err
	}

	fmt.Println("Without the fence in the statement she would not have been refused.")
	if err := reports.writeUnfenced(ctx, id, "Anna's report"); err != nil {
		return err
	}
	return expect("Ben's work is lost.", "Anna's report")
}
