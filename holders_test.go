package redislock_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

func TestX(t *testing.T) {
	ctx := context.Background()
	s := redistest.Start(t)
	rdb := redistest.Client(t, s.Addr)
	locker := redislock.New(rdb)
	r1, err := locker.Obtain(ctx, "k", time.Second*5, &redislock.Options{Shared: true})
	require.NoError(t, err)
	r2, err := locker.Obtain(ctx, "k", time.Second*5, &redislock.Options{Shared: true, RetryStrategy: redislock.FairQueue()})
	require.NoError(t, err)
	_, err = locker.Obtain(ctx, "k", time.Second*5, nil)
	require.ErrorIs(t, err, redislock.ErrNotObtained)
	_, err = locker.Obtain(ctx, "k", time.Second*5, &redislock.Options{Limit: 3})
	fmt.Println(err)
	_, err = locker.Obtain(ctx, "k", time.Second*5, &redislock.Options{Limit: 3, RetryStrategy: redislock.FairQueue()})
	fmt.Println(err)
	require.NoError(t, r1.Refresh(ctx, 7*time.Second, nil))
	ttl, err := r1.TTL(ctx)
	fmt.Println(ttl, err)
	var in, most, shared atomic.Int64
	start := time.Now()
	done := make(chan int)
	for i := range 20 {
		go func() {
			opt := &redislock.Options{RetryStrategy: redislock.FairQueue(), Shared: i%5 != 0}
			for j := range 20 {
				l, err := locker.Obtain(ctx, "k", 10*time.Second, opt)
				if !assert.NoError(t, err, "%v %v", i, j) {
					break
				}
				n := in.Add(1)
				most.Store(max(most.Load(), n))
				if opt.Shared {
					shared.Add(1)
				} else if n != 1 {
					t.Error("writer among", n)
				}
				time.Sleep(time.Millisecond)
				in.Add(-1)
				require.NoError(t, l.Release(ctx))
			}
			done <- i
		}()
	}
	require.NoError(t, r1.Release(ctx))
	require.ErrorIs(t, r1.Release(ctx), redislock.ErrLockNotHeld)
	require.NoError(t, r2.Release(ctx))
	for range 20 {
		<-done
	}
	fmt.Println(time.Since(start), most.Load(), shared.Load(), rdb.Keys(ctx, "*").Val())
}
