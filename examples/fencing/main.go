// Command fencing shows how a database row refuses the write of a lock holder that was paused
// for longer than its TTL. What you would copy is in reports.go. The database is SQLite, in
// memory; the locks are on an embedded server, or with -redis host:port on a real one.
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

func main() {
	addr := flag.String("redis", "", "address of a Redis server, host:port (default: an embedded one)")
	flag.Parse()
	if err := run(context.Background(), *addr); err != nil {
		fmt.Fprintln(os.Stderr, "fencing:", err)
		os.Exit(1)
	}
}

// ttl is shorter than Anna's pause.
const ttl = 300 * time.Millisecond

func openDB(ctx context.Context) (*sql.DB, error) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // each connection would have a database of its own
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// writeUnfenced shows what not to do.
func writeUnfenced(ctx context.Context, db *sql.DB, id int, body string) error {
	_, err := db.ExecContext(ctx, `UPDATE report SET body = ? WHERE id = ?`, body, id)
	return err
}

func read(ctx context.Context, db *sql.DB, id int) (body string, fence int64, err error) {
	err = db.QueryRowContext(ctx, `SELECT body, fence FROM report WHERE id = ?`, id).Scan(&body, &fence)
	return body, fence, err
}

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
	db, err := openDB(ctx)
	if err != nil {
		return err
	}
	defer db.Close()

	const id = 7
	reports := &reports{db: db, locker: redislock.New(client), prefix: fmt.Sprintf("redislock-fencing-%d:", os.Getpid())}
	// Only an example deletes its fencing counter.
	defer client.Del(context.WithoutCancel(ctx), fmt.Sprintf("%s{report:%d}:fence", reports.prefix, id))
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // without a deadline, waiting ends after the TTL
	defer cancel()
	obtain := func(who string) (*redislock.Lock, error) {
		lock, err := reports.lock(ctx, id, ttl)
		if err == nil {
			fmt.Printf("%s obtains the lock; the fencing token is %d.\n", who, lock.FenceToken())
		}
		return lock, err
	}
	expect := func(what, body string) error {
		got, fence, err := read(ctx, db, id)
		if err == nil && got != body {
			err = fmt.Errorf("the report is %q instead of %q", got, body)
		}
		if err == nil {
			fmt.Printf("  %s The report is %q, fence %d.\n", what, got, fence)
		}
		return err
	}
	write := func(lock *redislock.Lock, what, body string) error {
		if err := reports.write(ctx, lock, id, body); err != nil {
			return err
		}
		return expect(what, body)
	}

	anna, err := obtain("Anna")
	if err != nil {
		return err
	}
	if err := write(anna, "She writes.", "Anna's draft"); err != nil {
		return err
	}
	fmt.Printf("Anna is paused for longer than the TTL of %v.\n", ttl)
	ben, err := obtain("Ben")
	if err != nil {
		return err
	}
	if err := write(ben, "He writes.", "Ben's report"); err != nil {
		return err
	}

	fmt.Println("Anna resumes, and writes before she checks her lock.")
	if err := reports.write(ctx, anna, id, "Anna's report"); !errors.Is(err, errFenced) {
		return fmt.Errorf("the write of an old holder was not refused: %v", err)
	}
	if err := expect(fmt.Sprintf("She is refused: %v.", errFenced), "Ben's report"); err != nil {
		return err
	}
	if err := write(ben, "Ben may write again.", "Ben's report, 2nd edition"); err != nil {
		return err
	}
	if err := ben.Release(ctx); err != nil {
		return err
	}

	fmt.Println("Without the fence in the statement, she would not have been refused.")
	if err := writeUnfenced(ctx, db, id, "Anna's report"); err != nil {
		return err
	}
	return expect("Ben's work is lost.", "Anna's report")
}
