package redislock_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// fuzzed is a scripter of a server that may not know the scripts.
type fuzzed struct{ scripter }

func (f fuzzed) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return redis.NewCmdResult(f.answer(ctx, script))
}

// Whatever a server replies, a lock is held only if it said so, and nothing panics or hangs.
func FuzzReplies(f *testing.F) {
	for kind := range uint8(6) {
		f.Add(kind, int64(1), "OK")
		f.Add(kind, int64(-1), "9223372036854775807")
		f.Add(kind, int64(-1<<63), "WRONGTYPE not a string")
		f.Add(kind, int64(-1e15-1), "")
	}
	f.Fuzz(func(t *testing.T, kind uint8, n int64, text string) {
		var reply any
		var failure error
		switch kind % 6 {
		case 0:
			reply = n
		case 1:
			reply = text
		case 2:
			reply = []any{n, text}
		case 3:
			reply = float64(n)
		case 4:
			failure = errors.New(text)
		case 5:
			failure = redis.Nil
		}
		granted, err := redis.NewCmdResult(reply, failure).Int64()
		if reply == "OK" {
			granted, err = 1, nil
		}
		var closed atomic.Bool
		defer closed.Store(true) // so that nothing goes on trying
		for _, opt := range []*redislock.Options{nil, {FenceKey: "fence"}, fair(), {Token: "token", Metadata: text}} {
			ctx, cancel := context.WithCancel(t.Context())
			server := fuzzed{scripter{answer: func(context.Context, string) (any, error) {
				cancel() // before the first wait
				if closed.Load() {
					return nil, redis.ErrClosed
				}
				return reply, failure
			}}}
			lock, obtainErr := redislock.Obtain(ctx, server, key, time.Minute, opt)
			require.Equal(t, obtainErr == nil, lock != nil)
			if lock == nil {
				continue
			}
			require.NoError(t, err)
			require.NotZero(t, granted)
			_, _ = lock.TTL(t.Context())
			_ = lock.Refresh(t.Context(), time.Minute, nil)
			_ = lock.Release(t.Context())
		}
	})
}

// Keys, tokens and metadata are any bytes.
func FuzzValues(f *testing.F) {
	rdb := redistest.Start(f).Client()
	f.Add("key", "token", "metadata")
	f.Add("{a}b}", "", "\x00\r\n 1:2 3")
	f.Add("{}", " ", "")
	f.Add("a:redislock:queue", "1", "{")
	f.Add("\xff", "\x00", "\xff\xfe")
	f.Fuzz(func(t *testing.T, key, token, metadata string) {
		ctx := t.Context()
		require.NoError(t, rdb.FlushDB(ctx).Err())
		for _, opt := range []redislock.Options{
			{}, {FenceKey: key + "fence"}, {RetryStrategy: redislock.FairQueue()}, {RetryStrategy: redislock.FairQueue(), FenceKey: key + "fence"},
		} {
			opt.Token, opt.Metadata = token, metadata
			lock, err := redislock.Obtain(ctx, rdb, key, time.Minute, &opt)
			if key == "" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, key, lock.Key())
			require.Equal(t, metadata, lock.Metadata())
			if token != "" {
				require.Equal(t, token, lock.Token())
			}
			require.Equal(t, lock.Token()+metadata, rdb.Get(ctx, key).Val())
			_, err = redislock.Obtain(ctx, rdb, key, time.Minute, nil)
			require.Equal(t, redislock.ErrNotObtained, err)

			if opt.RetryStrategy == nil {
				require.NoError(t, lock.Release(ctx))
				continue
			}
			before := rdb.DBSize(ctx).Val()
			handedOver := make(chan *redislock.Lock, 1)
			go func() {
				next, err := redislock.Obtain(ctx, rdb, key, time.Minute, &redislock.Options{
					Metadata: metadata, RetryStrategy: redislock.FairQueue(),
				})
				if err != nil {
					t.Error(err)
				}
				handedOver <- next
			}()
			require.Eventually(t, func() bool { return rdb.DBSize(ctx).Val() == before+2 }, 10*time.Second, 50*time.Microsecond)
			require.NoError(t, lock.Release(ctx))
			next := <-handedOver
			require.Equal(t, metadata, next.Metadata())
			require.NoError(t, next.Release(ctx))
			require.LessOrEqual(t, rdb.DBSize(ctx).Val(), int64(1), "only the fencing counter is left")
		}
	})
}
