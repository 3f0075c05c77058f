package redislock_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// What the least code could do for a lock with go-redis: the yardstick.
var bareRelease = redis.NewScript(`
	if redis.call('get', KEYS[1]) == ARGV[1] then
		return redis.call('del', KEYS[1])
	end
	return 0`)

func bareObtainRelease(ctx context.Context, rdb *redis.Client) error {
	const token = "0123456789012345678901"
	if err := rdb.SetNX(ctx, "bare", token, time.Minute).Err(); err != nil {
		return err
	}
	return bareRelease.Run(ctx, rdb, []string{"bare"}, token).Err()
}

func obtainRelease(ctx context.Context, locker *redislock.Client, key string) error {
	lock, err := locker.Obtain(ctx, key, time.Minute, nil)
	if err != nil {
		return err
	}
	return lock.Release(ctx)
}

func BenchmarkObtainRelease(b *testing.B) {
	rdb := redistest.Start(b).Client()
	locker := redislock.New(rdb)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.Run("redislock", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			require.NoError(b, obtainRelease(ctx, locker, key))
		}
	})
	b.Run("bare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			require.NoError(b, bareObtainRelease(ctx, rdb))
		}
	})
}

// BenchmarkObtainRelease_ratio compares the two call by call, in turn, so that
// what else the machine does hits both.
func BenchmarkObtainRelease_ratio(b *testing.B) {
	rdb := redistest.Start(b).Client()
	locker := redislock.New(rdb)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var bare, ours []time.Duration
	for b.Loop() {
		start := time.Now()
		require.NoError(b, bareObtainRelease(ctx, rdb))
		between := time.Now()
		require.NoError(b, obtainRelease(ctx, locker, key))
		bare = append(bare, between.Sub(start))
		ours = append(ours, time.Since(between))
	}
	reportRatio(b, "ns", median(ours), median(bare))
}

// BenchmarkObtainRelease_parallel compares contexts that can be cancelled with those that cannot:
// a release has to return when its context ends.
func BenchmarkObtainRelease_parallel(b *testing.B) {
	rdb := redistest.Start(b).Client(func(o *redis.Options) { o.PoolSize = 100 })
	locker := redislock.New(rdb)
	cancelable, cancel := context.WithCancel(context.Background())
	defer cancel()
	for name, ctx := range map[string]context.Context{"cancelable": cancelable, "background": context.Background()} {
		b.Run(name, func(b *testing.B) {
			var workers atomic.Int32
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				key := fmt.Sprint(workers.Add(1))
				for pb.Next() {
					require.NoError(b, obtainRelease(ctx, locker, key))
				}
			})
		})
	}
}

// The general way to take locks: for any number of keys, with tables built in Lua,
// MSETNX, and PEXPIRE for each key. It is how upstream does it.
var tablesObtain = redis.NewScript(`
	local function expire()
		for _, key in ipairs(KEYS) do
			redis.call('pexpire', key, ARGV[3])
		end
	end
	local function mine()
		local length = tonumber(ARGV[2])
		for _, key in ipairs(KEYS) do
			if redis.call('getrange', key, 0, length - 1) ~= string.sub(ARGV[1], 1, length) then
				return false
			end
		end
		return true
	end
	local values = {}
	for _, key in ipairs(KEYS) do
		table.insert(values, key)
		table.insert(values, ARGV[1])
	end
	if redis.call('msetnx', unpack(values)) ~= 1 then
		if not mine() then
			return false
		end
		redis.call('mset', unpack(values))
	end
	expire()
	return redis.status_reply('OK')`)

// BenchmarkServerTime compares what an uncontended obtain costs the server.
func BenchmarkServerTime(b *testing.B) {
	server := redistest.Start(b)
	rdb := server.Client()
	locker := redislock.New(rdb)
	ctx := context.Background()
	const batch = 100
	measure := func(command string, obtain func() error) float64 {
		require.NoError(b, rdb.ConfigResetStat(ctx).Err())
		for range batch {
			require.NoError(b, obtain())
			require.NoError(b, rdb.Del(ctx, key).Err())
		}
		return float64(server.Microseconds(command)) / batch
	}
	var tables, ours []float64
	for b.Loop() {
		tables = append(tables, measure("evalsha", func() error {
			return tablesObtain.Run(ctx, rdb, []string{key}, "0123456789012345678901", 22, time.Minute.Milliseconds()).Err()
		}))
		ours = append(ours, measure("set", func() error {
			_, err := locker.Obtain(ctx, key, time.Minute, nil)
			return err
		}))
	}
	reportRatio(b, "server-µs", median(ours), median(tables))
}

func median[T int64 | float64 | time.Duration](values []T) float64 {
	slices.Sort(values)
	return float64(values[len(values)/2])
}

func reportRatio(b *testing.B, unit string, ours, theirs float64) {
	b.ReportMetric(ours, unit+"/redislock")
	b.ReportMetric(theirs, unit+"/other")
	b.ReportMetric(ours/theirs, "ratio")
	b.ReportMetric(0, "ns/op")
}
