package redislock_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	queueKey   = "{" + key + "}:redislock:queue"
	waitersKey = "{" + key + "}:redislock:waiters"
)

// waiterEnv names the variable that makes the test binary a process that waits for a
// lock of that TTL on the server of that address.
const waiterEnv = "REDISLOCK_TEST_WAITER"

func waitInThisProcess(addrAndTTL string) {
	addr, duration, _ := strings.Cut(addrAndTTL, " ")
	ttl, _ := time.ParseDuration(duration)
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := redislock.Obtain(ctx, rdb, key, ttl, fair())
	fmt.Println("obtained", err)
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the parent goes
}

// waiterProcess starts a process that waits for the lock, and returns when it is in
// the queue. The channel passes on what it says.
func waiterProcess(t *testing.T, server *redistest.Server, ttl time.Duration) (*os.Process, <-chan string) {
	t.Helper()
	rdb := server.Client()
	before := queued(t, rdb)
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), waiterEnv+"="+server.Addr+" "+ttl.String())
	stdin, err := command.StdinPipe()
	require.NoError(t, err)
	stdout, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	said := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		said <- strings.TrimSpace(line)
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = stdin.Close()
		_ = command.Wait()
	})
	awaitQueue(t, rdb, before+1)
	awaitChannels(t, rdb, int(before)+1)
	return command.Process, said
}

func fair() *redislock.Options {
	return &redislock.Options{RetryStrategy: redislock.FairQueue()}
}

func queued(t testing.TB, rdb *redis.Client) int64 {
	t.Helper()
	n, err := rdb.ZCard(t.Context(), queueKey).Result()
	require.NoError(t, err)
	return n
}

// awaitQueue waits until n are waiting.
func awaitQueue(t testing.TB, rdb *redis.Client, n int64) {
	t.Helper()
	require.Eventually(t, func() bool { return queued(t, rdb) == n }, 10*time.Second, time.Millisecond)
}

// awaitChannels waits until n of the waiters can be told by a message.
func awaitChannels(t testing.TB, rdb *redis.Client, n int) {
	t.Helper()
	awaitChannelsOf(t, rdb, waitersKey, n)
}

// awaitChannelsOf is awaitChannels for the waiters in a hash.
func awaitChannelsOf(t testing.TB, rdb redis.Cmdable, waitersKey string, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		waiters, err := rdb.HVals(t.Context(), waitersKey).Result()
		require.NoError(t, err)
		reachable := 0
		for _, w := range waiters {
			if strings.Contains(w, "redislock:") { // its channel
				reachable++
			}
		}
		return reachable >= n
	}, 10*time.Second, time.Millisecond)
}

// awaitAlive waits until n waiters are known to be alive for some time to come.
func awaitAlive(t testing.TB, rdb *redis.Client, n int) {
	t.Helper()
	awaitAliveOf(t, rdb, waitersKey, n)
}

// awaitAliveOf is awaitAlive for the waiters in a hash.
func awaitAliveOf(t testing.TB, rdb redis.Cmdable, waitersKey string, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		waiters, err := rdb.HVals(t.Context(), waitersKey).Result()
		alive := 0
		for _, waiter := range waiters {
			var until int64
			_, _ = fmt.Sscan(waiter, &until)
			if until > time.Now().Add(1500*time.Millisecond).UnixMicro() {
				alive++
			}
		}
		return err == nil && alive == n
	}, 20*time.Second, time.Millisecond)
}

// awaitListeners waits until n clients are subscribed.
func awaitListeners(t testing.TB, rdb *redis.Client, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		channels, err := rdb.PubSubChannels(t.Context(), "redislock:*").Result()
		return err == nil && len(channels) == n
	}, 10*time.Second, time.Millisecond)
}

// awaitNoKeys waits until no lock and no queue is left on the server.
func awaitNoKeys(t testing.TB, rdb *redis.Client) {
	t.Helper()
	require.Eventually(t, func() bool {
		n, err := rdb.DBSize(t.Context()).Result()
		return err == nil && n == 0
	}, 10*time.Second, time.Millisecond)
}

type obtained struct {
	name string
	lock *redislock.Lock
	err  error
	at   time.Time
}

// waitInLine starts a waiter and returns when it is in the queue.
func waitInLine(t testing.TB, ctx context.Context, rdb *redis.Client, client redislock.RedisClient, name string, opt *redislock.Options, results chan<- obtained) {
	t.Helper()
	joinQueue(t, ctx, rdb, redislock.New(client), name, opt, results)
}

// joinQueue is waitInLine for a [redislock.Client].
func joinQueue(t testing.TB, ctx context.Context, rdb *redis.Client, locker *redislock.Client, name string, opt *redislock.Options, results chan<- obtained) {
	t.Helper()
	before := queued(t, rdb)
	go func() {
		lock, err := locker.Obtain(ctx, key, ttl, opt)
		results <- obtained{name, lock, err, time.Now()}
	}()
	awaitQueue(t, rdb, before+1)
}

// manyNames are those of so many waiters that nobody could mistake how they learn of their
// turn: by a message or by asking often, or only by asking once a second.
func manyNames() (names []string) {
	for i := range 20 {
		names = append(names, fmt.Sprint(i))
	}
	return names
}

// requirePromptness is requireOrder for manyNames. Who asks once a second learns of its turn
// after half a second on average: all of them together would take twice as long as they may.
func requirePromptness(t testing.TB, lock *redislock.Lock, results <-chan obtained, names ...string) {
	t.Helper()
	start := time.Now()
	requireOrder(t, lock, results, names...)
	require.Less(t, time.Since(start), 5*time.Second)
}

func receive(t testing.TB, results <-chan obtained) obtained {
	t.Helper()
	select {
	case result := <-results:
		return result
	case <-time.After(20 * time.Second):
		require.FailNow(t, "no waiter was served")
		panic("unreachable")
	}
}

// requireOrder lets the waiters have the lock one after the other and requires that
// each is served much sooner than its TTL.
func requireOrder(t testing.TB, lock *redislock.Lock, results <-chan obtained, names ...string) {
	t.Helper()
	for _, name := range names {
		released := time.Now()
		require.NoError(t, lock.Release(t.Context()))
		result := receive(t, results)
		require.NoError(t, result.err)
		require.Equal(t, name, result.name)
		require.Less(t, result.at.Sub(released), ttl/4)
		lock = result.lock
	}
	require.NoError(t, lock.Release(t.Context()))
}

func TestFairQueue_order(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		lock := obtain(t, rdb, fair())
		results := make(chan obtained, 20)
		names := manyNames()
		for _, name := range names {
			client := redistest.Client(t, rdb.Options().Addr)
			waitInLine(t, t.Context(), rdb, client, name, fair(), results)
		}
		requireOrder(t, lock, results, names...)
		awaitNoKeys(t, rdb)
	})
}

// requireCommands requires that so many commands are sent.
func requireCommands(t *testing.T, want int, sent func() int) {
	t.Helper()
	require.Eventually(t, func() bool { return sent() == want }, 10*time.Second, 10*time.Millisecond, "%d", sent())
}

// Half of them share a client, and so a connection for messages. Nobody can ask: they learn
// of their turn by the message, or not at all.
func TestFairQueue_handoverIsWokenNotPolled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	gate, answers := &gate{}, &answers{}
	connect := func() *redis.Client {
		client := server.Client()
		client.AddHook(gate)
		client.AddHook(answers)
		return client
	}
	rdb, shared := connect(), connect()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 10)
	var names []string
	for i := range 10 {
		client := shared
		if i%2 == 0 {
			client = connect()
		}
		names = append(names, fmt.Sprint(i))
		waitInLine(t, t.Context(), rdb, client, names[i], fair(), results)
	}
	awaitChannels(t, rdb, 10)
	asks := gate.close("ask")
	defer asks.release()
	gate.awaitPassed(t)
	calls := server.Calls("evalsha")
	requireOrder(t, lock, results, names...)
	requireCommands(t, 11, func() int { // one a handover
		return server.Calls("evalsha") - calls - answers.toCleaning()
	})
	requireGone(t, rdb, key, queueKey, waitersKey)
}

func TestFairQueue_uncontended(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb, answers := server.Client(), &answers{}
	require.NoError(t, obtain(t, rdb, fair()).Release(t.Context())) // loads the scripts
	awaitNoTasks(t, rdb)
	rdb.AddHook(answers)
	before := server.Calls("evalsha")
	lock := obtain(t, rdb, fair())
	requireTTL(t, rdb, key, ttl)
	assert.Equal(t, lock.Token(), rdb.Get(t.Context(), key).Val())
	require.NoError(t, lock.Release(t.Context()))
	requireCommands(t, 2, func() int { return server.Calls("evalsha") - before - answers.toCleaning() })
	assert.ErrorIs(t, lock.Release(t.Context()), redislock.ErrLockNotHeld)
	assert.Zero(t, server.Calls("subscribe"))
	assert.LessOrEqual(t, server.Calls("eval"), 3, "each script once")
	requireGone(t, rdb, key, queueKey, waitersKey)
}

func TestFairQueue_processKilled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 2)
	waitInLine(t, t.Context(), rdb, server.Client(), "first", fair(), results)
	const processTTL = 15 * time.Second
	victim, _ := waiterProcess(t, server, processTTL)
	_, survivor := waiterProcess(t, server, processTTL)
	waitInLine(t, t.Context(), rdb, server.Client(), "last", fair(), results)
	awaitChannels(t, rdb, 4)
	require.NoError(t, victim.Kill())
	awaitListeners(t, rdb, 3) // the server has noticed

	require.NoError(t, lock.Release(t.Context()))
	first := receive(t, results)
	require.NoError(t, first.err)
	require.NoError(t, first.lock.Release(t.Context()))
	start := time.Now()
	require.Equal(t, "obtained <nil>", <-survivor)
	assert.Less(t, time.Since(start), processTTL/2, "the victim's TTL was not waited for")
	require.NoError(t, rdb.PExpire(t.Context(), key, time.Millisecond).Err()) // the survivor does not release
	last := receive(t, results)
	require.NoError(t, last.err)
	assert.Equal(t, "last", last.name)
}

func TestFairQueue_processHangs(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	const processTTL = 2 * time.Second
	hung, _ := waiterProcess(t, server, processTTL)
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, server.Client(), "next", fair(), results)
	redistest.PauseProcess(t, hung.Pid)

	released := time.Now()
	require.NoError(t, lock.Release(t.Context()))
	next := receive(t, results)
	require.NoError(t, next.err)
	assert.Greater(t, next.at.Sub(released), processTTL/2, "it was handed to the process that hangs")
	assert.Less(t, next.at.Sub(released), processTTL+8*time.Second, "once")
}

// The process is away for longer than its place and then for longer than the TTL of the
// lock that it was handed: the message that waits for it says nothing any more.
func TestFairQueue_processPaused(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	paused, said := waiterProcess(t, server, 2*time.Second)
	redistest.PauseProcess(t, paused.Pid)
	require.NoError(t, lock.Release(t.Context())) // to the paused
	require.Eventually(t, func() bool { return rdb.Exists(t.Context(), key).Val() == 0 }, 10*time.Second, time.Millisecond)
	lock = obtain(t, rdb, nil)

	require.NoError(t, paused.Signal(syscall.SIGCONT))
	awaitQueue(t, rdb, 1) // it has asked again
	select {
	case line := <-said:
		require.Fail(t, "it believes to hold a lock that it has lost", line)
	case <-time.After(300 * time.Millisecond):
	}
	require.NoError(t, lock.Release(t.Context()))
	assert.Equal(t, "obtained <nil>", <-said)
}

func TestFairQueue_contextEnds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 3)
	var tally tally
	locker := redislock.New(rdb).WithObserver(&tally)
	joinQueue(t, t.Context(), rdb, locker, "first", fair(), results)
	ctx, cancel := context.WithCancel(t.Context())
	joinQueue(t, ctx, rdb, locker, "canceled", fair(), results)
	joinQueue(t, t.Context(), rdb, locker, "last", fair(), results)
	awaitChannels(t, rdb, 3) // all have their answer, and have asked again
	cancel()
	canceled := receive(t, results)
	assert.ErrorIs(t, canceled.err, context.Canceled)
	assert.ErrorIs(t, canceled.err, redislock.ErrNotObtained)
	assert.EqualValues(t, 2, queued(t, rdb), "it has left before Obtain returns")
	tally.require(t, map[string]int{"obtain cancel": 1})
	requireOrder(t, lock, results, "first", "last")
	awaitNoKeys(t, rdb)
}

// The context of one waiter ends just when the lock is handed to it. The next gets it
// soon, whatever comes first, and nothing is left.
func TestFairQueue_canceledAtTheHandover(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	rdb, others := server.Client(), server.Client()
	served, canceled := 0, 0
	for i := range 300 {
		lock := obtain(t, rdb, fair())
		results := make(chan obtained, 2)
		ctx, cancel := context.WithCancel(t.Context())
		waitInLine(t, ctx, rdb, others, "canceled", fair(), results)
		waitInLine(t, t.Context(), rdb, others, "next", fair(), results)
		var releasing sync.WaitGroup
		releasing.Go(func() { assert.NoError(t, lock.Release(t.Context())) })
		time.Sleep(time.Duration(i%50) * 10 * time.Microsecond)
		cancel()
		releasing.Wait()
		start := time.Now()
		for range 2 {
			result := receive(t, results)
			if result.err != nil {
				require.ErrorIs(t, result.err, context.Canceled)
				require.Equal(t, "canceled", result.name)
				canceled++
				continue
			}
			served++
			require.NoError(t, result.lock.Release(t.Context()))
		}
		require.Less(t, time.Since(start), 10*time.Second)
	}
	assert.Equal(t, 600, served+canceled)
	assert.NotZero(t, canceled)
	awaitNoKeys(t, rdb)
}

func TestFairQueue_holderDies(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	rdb := server.Client()
	const holderTTL = 3 * time.Second
	start := time.Now()
	_, err := redislock.Obtain(t.Context(), rdb, key, holderTTL, fair())
	require.NoError(t, err)
	results := make(chan obtained, 3)
	waitInLine(t, t.Context(), rdb, server.Client(), "first", fair(), results)
	waitInLine(t, t.Context(), rdb, server.Client(), "second", fair(), results)
	first := receive(t, results)
	require.NoError(t, first.err)
	assert.Equal(t, "first", first.name)
	assert.GreaterOrEqual(t, first.at.Sub(start), holderTTL)
	assert.Less(t, first.at.Sub(start), holderTTL+5*time.Second)
	requireOrder(t, first.lock, results, "second")
}

func TestFairQueue_pubsubKilled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 3)
	names := []string{"first", "second", "third"}
	for _, name := range names {
		waitInLine(t, t.Context(), rdb, server.Client(), name, fair(), results)
	}
	awaitChannels(t, rdb, 3)
	for range 3 {
		require.NoError(t, rdb.Do(t.Context(), "client", "kill", "type", "pubsub").Err())
		awaitListeners(t, rdb, 3)
	}
	awaitChannels(t, rdb, 3)
	requireOrder(t, lock, results, names...)
}

// The lock is handed over while nobody listens: all are dropped. They come back at the
// place that they had.
func TestFairQueue_placesAreKept(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 3)
	names := []string{"first", "second", "third"}
	for _, name := range names {
		waitInLine(t, t.Context(), rdb, server.Client(), name, fair(), results)
		time.Sleep(300 * time.Millisecond) // a place is remembered as how long ago it was taken
	}
	require.NoError(t, rdb.Del(t.Context(), queueKey, waitersKey).Err())
	awaitQueue(t, rdb, 3)
	requireOrder(t, lock, results, names...)
}

// listener gets its messages by another client.
type listener struct {
	*redis.Client
	messages *redis.Client
}

func (l listener) Subscribe(ctx context.Context, channels ...string) *redis.PubSub {
	return l.messages.Subscribe(ctx, channels...)
}

func TestFairQueue_messageLost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	proxy := redistest.StartProxy(t, server.Addr)
	deaf := listener{Client: server.Client(), messages: redistest.Client(t, proxy.Addr)}
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 2)
	waitInLine(t, t.Context(), rdb, deaf, "deaf", fair(), results)
	waitInLine(t, t.Context(), rdb, rdb, "last", fair(), results)
	awaitChannels(t, rdb, 2)
	proxy.DropReplies(true)
	requireOrder(t, lock, results, "deaf", "last")
}

// A replica passes on messages that the master does not count. One that hears of its turn
// there and one that is served in its place would hold the lock at a time.
func TestFairQueue_subscribedAtAReplica(t *testing.T) {
	t.Parallel()
	replicated := redistest.StartReplicas(t)
	rdb := replicated.Master.Client()
	astray := listener{Client: replicated.Master.Client(), messages: replicated.Replicas[0].Client()}
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 2)
	waitInLine(t, t.Context(), rdb, astray, "astray", fair(), results)
	waitInLine(t, t.Context(), rdb, rdb, "last", fair(), results)
	awaitChannels(t, rdb, 1)
	awaitListeners(t, replicated.Replicas[0].Client(), 1)
	requireOrder(t, lock, results, "astray", "last")
}

// So what nobody listens to at the master is not sent.
func TestFairQueue_messageToAReplica(t *testing.T) {
	t.Parallel()
	replicated := redistest.StartReplicas(t)
	rdb := replicated.Master.Client()
	subscription := replicated.Replicas[0].Client().Subscribe(t.Context(), "redislock:astray")
	defer subscription.Close()
	_, err := subscription.Receive(t.Context())
	require.NoError(t, err)
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, rdb, "present", fair(), results)
	awaitChannels(t, rdb, 1)
	alive := time.Now().Add(time.Minute).UnixMicro()
	require.NoError(t, rdb.ZAdd(t.Context(), queueKey, redis.Z{Score: 1, Member: "astray"}).Err())
	require.NoError(t, rdb.HSet(t.Context(), waitersKey, "astray", fmt.Sprintf("%d 60000 1:1:1:bG9jaw 1 -6 predislock:astray", alive)).Err())
	requireOrder(t, lock, results, "present")

	require.NoError(t, rdb.Publish(t.Context(), "redislock:astray", "the first").Err())
	message, err := subscription.ReceiveMessage(t.Context())
	require.NoError(t, err)
	require.Equal(t, "the first", message.Payload)
}

// Where the connection of a subscription is replaced, a message may come by both.
func TestFairQueue_messageTwice(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, rdb, "waiter", fair(), results)
	awaitChannels(t, rdb, 1)
	channel := rdb.PubSubChannels(t.Context(), "redislock:*").Val()[0]
	tap := rdb.Subscribe(t.Context(), channel)
	defer tap.Close()
	_, err := tap.Receive(t.Context())
	require.NoError(t, err)
	require.NoError(t, lock.Release(t.Context()))
	result := receive(t, results)
	require.NoError(t, result.err)
	message, err := tap.ReceiveMessage(t.Context())
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, rdb.Publish(t.Context(), channel, message.Payload).Err())
	}
	// The lock is its own until it releases it.
	requireStays(t, 300*time.Millisecond, func() bool { return rdb.Get(t.Context(), key).Val() == result.lock.Token() })
	require.NoError(t, result.lock.Release(t.Context()))
	awaitNoKeys(t, rdb)
}

func TestFairQueue_serverRestarts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 3)
	names := []string{"first", "second", "third"}
	for _, name := range names {
		waitInLine(t, t.Context(), rdb, server.Client(), name, fair(), results)
	}
	server.Kill()
	server.Restart()
	awaitListeners(t, rdb, 3)
	awaitAlive(t, rdb, 3)
	requireOrder(t, lock, results, names...)
	awaitNoKeys(t, rdb)
}

func TestFairQueue_scriptsFlushed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 2)
	for _, name := range []string{"first", "second"} {
		waitInLine(t, t.Context(), rdb, server.Client(), name, fair(), results)
		require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
	}
	requireOrder(t, lock, results, "first", "second")
}

func TestFairQueue_withoutChannels(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	cases := map[string]func(t *testing.T, server *redistest.Server) redislock.RedisClient{
		"no permission": func(t *testing.T, server *redistest.Server) redislock.RedisClient {
			require.NoError(t, server.Client().Do(t.Context(), "acl", "setuser", "muted", "on", ">secret", "~*", "+@all", "resetchannels").Err())
			return server.Client(func(o *redis.Options) { o.Username, o.Password = "muted", "secret" })
		},
		"bare scripter": func(t *testing.T, server *redistest.Server) redislock.RedisClient {
			return struct{ redis.Scripter }{server.Client()}
		},
	}
	for name, connect := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			rdb := server.Client()
			client, another := connect(t, server), connect(t, server)
			lock, err := redislock.Obtain(t.Context(), client, key, ttl, fair())
			require.NoError(t, err)
			names := manyNames()
			results := make(chan obtained, len(names))
			waitInLine(t, t.Context(), rdb, another, names[0], fair(), results)
			for _, name := range names[1:] {
				waitInLine(t, t.Context(), rdb, client, name, fair(), results)
			}
			requirePromptness(t, lock, results, names...)

			// The waiter has a channel, but the holder may not publish.
			lock, err = redislock.Obtain(t.Context(), client, key, ttl, fair())
			require.NoError(t, err)
			waitInLine(t, t.Context(), rdb, rdb, "with a channel", fair(), results)
			awaitChannels(t, rdb, 1)
			requireOrder(t, lock, results, "with a channel")
			awaitNoKeys(t, rdb)
		})
	}
}

// Nothing is left of a client that was not let subscribe, once it is closed.
func TestFairQueue_refusedAndClosed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	require.NoError(t, rdb.Do(t.Context(), "acl", "setuser", "default", "resetchannels").Err())
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, client, "refused", fair(), results)
	require.NoError(t, lock.Release(t.Context()))
	result := receive(t, results)
	require.NoError(t, result.err)
	require.NoError(t, result.lock.Release(t.Context()))
	require.NoError(t, client.Close())
}

func TestFairQueue_behindAPlainHolder(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	rdb := server.Client()
	results := make(chan obtained, 2)

	lock := obtain(t, rdb, nil)
	waitInLine(t, t.Context(), rdb, rdb, "after a release", fair(), results)
	awaitChannels(t, rdb, 1)
	requireOrder(t, lock, results, "after a release")

	plain, err := redislock.Obtain(t.Context(), rdb, key, 2*time.Second, nil)
	require.NoError(t, err)
	waitInLine(t, t.Context(), rdb, rdb, "after an expiry", fair(), results)
	result := receive(t, results)
	require.NoError(t, result.err)
	assert.True(t, plain.ValidUntil().Before(result.at))
	assert.Less(t, result.at.Sub(plain.ValidUntil()), 6*time.Second)
	require.NoError(t, result.lock.Release(t.Context()))
}

// One connection for the messages of a client: opened by the first wait, closed when
// idle, or with the client.
func TestFairQueue_subscription(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	rdb, client := server.Client(), redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()
	channels := func() int {
		channels, err := rdb.PubSubChannels(t.Context(), "*").Result()
		require.NoError(t, err)
		return len(channels)
	}
	lock := obtain(t, client, fair())
	assert.Zero(t, channels())
	results := make(chan obtained, 3)
	waitInLine(t, t.Context(), rdb, client, "first", fair(), results)
	waitInLine(t, t.Context(), rdb, client, "second", fair(), results)
	awaitChannels(t, rdb, 2)
	assert.Equal(t, 1, channels())
	requireOrder(t, lock, results, "first", "second")
	awaitNone := func() {
		for deadline := time.Now().Add(10 * time.Second); channels() > 0; time.Sleep(time.Millisecond) {
			require.True(t, time.Now().Before(deadline))
		}
	}
	awaitNone()

	obtain(t, rdb, fair())
	waitInLine(t, t.Context(), rdb, client, "closed", fair(), results)
	awaitChannels(t, rdb, 1)
	require.NoError(t, client.Close())
	closed := receive(t, results)
	assert.ErrorIs(t, closed.err, redis.ErrClosed)
	awaitNone() // the server learns of it later
}

func TestFairQueue_options(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		watchdog := redislock.NewTickWatchdog(0)
		opt := func(i int) *redislock.Options {
			return &redislock.Options{
				RetryStrategy: redislock.FairQueue(),
				Token:         fmt.Sprintf("token \x00 %d", i),
				Metadata:      "\x00 \n}{ \xff",
				FenceKey:      "fence",
				Watchdog:      watchdog,
			}
		}
		lock := obtain(t, rdb, opt(0))
		assert.EqualValues(t, 1, lock.FenceToken())
		results := make(chan obtained, 5)
		for i := range 5 {
			waitInLine(t, t.Context(), rdb, rdb, fmt.Sprint(i+1), opt(i+1), results)
		}
		for i := range 5 {
			require.NoError(t, lock.Release(t.Context()))
			result := receive(t, results)
			require.NoError(t, result.err)
			lock = result.lock
			require.Equal(t, fmt.Sprint(i+1), result.name)
			assert.Equal(t, opt(i+1).Token, lock.Token())
			assert.Equal(t, opt(i+1).Metadata, lock.Metadata())
			assert.EqualValues(t, i+2, lock.FenceToken())
			assert.Equal(t, lock.Token()+lock.Metadata(), rdb.Get(t.Context(), key).Val())
		}
		again := obtain(t, rdb, opt(5))
		assert.EqualValues(t, 6, again.FenceToken())
		require.NoError(t, again.Release(t.Context()))
		assert.ErrorIs(t, lock.Release(t.Context()), redislock.ErrLockNotHeld)
		requireGone(t, rdb, key, queueKey, waitersKey)
	})
}

// A counter that cannot be used is found out before the lock is taken.
func TestFairQueue_unusableCounter(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		require.NoError(t, rdb.Set(t.Context(), "fence", "text", 0).Err())
		opt := fair()
		opt.FenceKey = "fence"
		_, err := redislock.Obtain(t.Context(), rdb, key, ttl, opt)
		require.Error(t, err)
		assert.NotErrorIs(t, err, redislock.ErrNotObtained)
		requireGone(t, rdb, key, queueKey, waitersKey)
	})
}

func TestFairQueue_valueOfAnotherType(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		require.NoError(t, rdb.RPush(t.Context(), key, "element").Err())
		_, err := redislock.Obtain(t.Context(), rdb, key, ttl, fair())
		require.Error(t, err)
		assert.NotErrorIs(t, err, redislock.ErrNotObtained)
		assert.Equal(t, []string{"element"}, rdb.LRange(t.Context(), key, 0, -1).Val())
		requireGone(t, rdb, queueKey, waitersKey)
	})
}

// The TTL runs from the handover, of which the new holder learns later. It may believe
// in no more than is certain, and asks for more if that is little.
func TestFairQueue_validUntil(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	rdb := server.Client()
	for _, ttl := range []time.Duration{6 * time.Second, time.Minute} {
		lock := obtain(t, rdb, fair())
		locks := make(chan *redislock.Lock)
		go func() {
			lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, fair())
			assert.NoError(t, err)
			locks <- lock
		}()
		awaitQueue(t, rdb, 1)
		awaitChannels(t, rdb, 1)
		time.Sleep(700 * time.Millisecond) // more than a tenth of the shorter TTL
		require.NoError(t, lock.Release(t.Context()))
		lock = <-locks
		require.NotNil(t, lock)
		left, err := lock.TTL(t.Context())
		require.NoError(t, err)
		valid := time.Until(lock.ValidUntil())
		assert.LessOrEqual(t, valid, left)
		assert.Greater(t, valid, ttl*8/10)
		require.NoError(t, lock.Release(t.Context()))
	}
}

// Somebody else's lock was handed over to a waiter that is not there any more, although
// its client is: the client passes it on.
func TestFairQueue_handoverToTheAbsent(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, rdb, "present", fair(), results)
	awaitChannels(t, rdb, 1)
	channel := rdb.PubSubChannels(t.Context(), "redislock:*").Val()[0]
	alive := time.Now().Add(time.Minute).UnixMicro()
	require.NoError(t, rdb.ZAdd(t.Context(), queueKey, redis.Z{Score: 1, Member: "absent"}).Err())
	require.NoError(t, rdb.HSet(t.Context(), waitersKey, "absent", fmt.Sprintf("%d 60000 123456:1:bG9jaw p%s", alive, channel)).Err())
	requireOrder(t, lock, results, "present")
	awaitNoKeys(t, rdb)
}

// One that has not been heard of for too long is not served, whoever may be listening.
func TestFairQueue_notHeardOf(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, rdb, "alive", fair(), results)
	awaitChannels(t, rdb, 1)
	require.NoError(t, rdb.ZAdd(t.Context(), queueKey, redis.Z{Score: 1, Member: "silent"}).Err())
	require.NoError(t, rdb.HSet(t.Context(), waitersKey, "silent", fmt.Sprintf("%d 60000 1:1 1 -22 ", time.Now().Add(-time.Second).UnixMicro())).Err())
	requireOrder(t, lock, results, "alive")
	awaitNoKeys(t, rdb)
}

// What is no handover, or an old one, is not believed.
func TestFairQueue_falseMessages(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, rdb, "waiter", fair(), results)
	awaitChannels(t, rdb, 1)
	channel := rdb.PubSubChannels(t.Context(), "redislock:*").Val()[0]
	value := rdb.ZRange(t.Context(), queueKey, 0, -1).Val()[0]
	entry := strings.Fields(rdb.HGet(t.Context(), waitersKey, value).Val())
	id, _, _ := strings.Cut(entry[2], ":")
	for _, message := range []string{
		"", "::", value, entry[2], id + ":1:not-the-key " + value,
		id + ":-99999999999999:bG9jaw " + value, // before all times
		id + ":9223372036854775807:bG9jaw " + value,
	} {
		require.NoError(t, rdb.Publish(t.Context(), channel, message).Err())
	}
	select {
	case result := <-results:
		require.Fail(t, "the lock is somebody else's", result)
	case <-time.After(300 * time.Millisecond):
	}
	requireOrder(t, lock, results, "waiter")
}

func TestFairQueue_outOfMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, rdb, "waiter", fair(), results)
	awaitChannels(t, rdb, 1)
	require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	requireOrder(t, lock, results, "waiter")
	_, err := redislock.Obtain(t.Context(), rdb, key, ttl, fair())
	assert.ErrorContains(t, err, "OOM")
	assert.NotErrorIs(t, err, redislock.ErrNotObtained)
}

func TestFairQueue_severalKeys(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		lock := obtain(t, rdb, fair())
		client := redistest.Client(t, rdb.Options().Addr)
		var answers answers
		client.AddHook(&answers)
		results := make(chan obtained, 1)
		go func() {
			lock, err := redislock.ObtainMulti(t.Context(), client, []string{key, "another"}, ttl, fair())
			results <- obtained{lock: lock, err: err}
		}()
		require.Eventually(t, func() bool { return answers.to("obtain") > 0 }, 20*time.Second, time.Millisecond)
		require.NoError(t, lock.Release(t.Context()))
		result := receive(t, results)
		require.NoError(t, result.err)
		require.NoError(t, result.lock.Release(t.Context()))
	})
}

func TestFairQueue_limited(t *testing.T) {
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	obtain(t, rdb, nil)
	before := redislock.GetStats().Backoff
	_, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{
		RetryStrategy: redislock.LimitRetry(redislock.FairQueue(), 2),
	})
	assert.Equal(t, redislock.ErrNotObtained, err)
	assert.EqualValues(t, 2, redislock.GetStats().Backoff-before)
	backoffs := backoffs(redislock.FairQueue(), 100)
	for _, backoff := range backoffs {
		assert.Greater(t, backoff, 20*time.Millisecond)
		assert.Less(t, backoff, 80*time.Millisecond)
	}
}

func TestFairQueue_waitsForTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := redislock.Obtain(t.Context(), answering(0), key, ttl, fair())
		assert.ErrorIs(t, err, redislock.ErrNotObtained)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, ttl, time.Since(start))
	})
}

func TestFairQueue_redisFails(t *testing.T) {
	failure := errors.New("failure")
	for name, answers := range map[string]int{"at once": 0, "later": 3} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rdb := scripter{answer: func(context.Context, string) (any, error) {
					if answers--; answers >= 0 {
						return int64(-60000), nil
					}
					return nil, failure
				}}
				before := redislock.GetStats().Obtain
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				start := time.Now()
				_, err := redislock.Obtain(ctx, rdb, key, ttl, fair())
				assert.ErrorIs(t, err, failure)
				assert.NotErrorIs(t, err, redislock.ErrNotObtained)
				assert.Less(t, time.Since(start), 15*time.Second)
				before.Error++
				assert.Equal(t, before, redislock.GetStats().Obtain)
				time.Sleep(time.Minute) // until leaving is given up
			})
		})
	}
}

// Redis is silent: the caller returns even so when its context ends.
func TestFairQueue_redisIsSilent(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb, client := server.Client(), server.Client(patient)
	obtain(t, rdb, fair())
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan obtained, 1)
	waitInLine(t, ctx, rdb, client, "waiter", fair(), results)
	awaitChannels(t, rdb, 1)
	server.Pause()
	defer server.Resume()
	cancel()
	start := time.Now()
	assert.ErrorIs(t, receive(t, results).err, context.Canceled)
	assert.Less(t, time.Since(start), 10*time.Second)
}

func TestFairQueue_keyThatCannotBeQueuedFor(t *testing.T) {
	t.Parallel()
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	defer cluster.Close()
	_, err := redislock.Obtain(t.Context(), cluster, "a}b", ttl, fair())
	assert.ErrorContains(t, err, `"a}b"`)
	assert.ErrorContains(t, err, "{hash tag}")

	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	lock, err := redislock.Obtain(t.Context(), rdb, "a}b", ttl, fair())
	require.NoError(t, err)
	require.NoError(t, lock.Release(t.Context()))
}

func TestFairQueue_do(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	inside, most := 0, 0
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			assert.NoError(t, redislock.New(rdb).Do(t.Context(), key, ttl, fair(), func(context.Context) error {
				mu.Lock()
				inside++
				most = max(most, inside)
				mu.Unlock()
				time.Sleep(time.Millisecond)
				mu.Lock()
				inside--
				mu.Unlock()
				return nil
			}))
		})
	}
	workers.Wait()
	assert.Equal(t, 1, most)
	awaitNoKeys(t, rdb)
}

// A call by a token that holds the lock fails: the holder keeps it.
func TestFairQueue_customTokenIsLeftAlone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	proxy := redistest.StartProxy(t, server.Addr)
	through := redistest.Client(t, proxy.Addr, once)
	require.NoError(t, through.Ping(t.Context()).Err())
	host := fair()
	host.Token = "host"
	for name, fail := range map[string]func(*testing.T){
		"context over": func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := redislock.Obtain(ctx, rdb, key, ttl, host)
			require.ErrorIs(t, err, context.Canceled)
		},
		"reply lost": func(t *testing.T) {
			proxy.DropReplies(true)
			_, err := redislock.Obtain(t.Context(), impatiently(through), key, ttl, host)
			require.Error(t, err)
			proxy.DropReplies(false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			first := obtain(t, rdb, fair())
			results := make(chan obtained, 2)
			waitInLine(t, t.Context(), rdb, rdb, "host", host, results)
			waitInLine(t, t.Context(), rdb, rdb, "last", fair(), results)
			awaitChannels(t, rdb, 2)
			require.NoError(t, first.Release(t.Context()))
			served := receive(t, results)
			require.Equal(t, "host", served.name)
			fail(t)
			requireStays(t, 500*time.Millisecond, func() bool { return rdb.Get(t.Context(), key).Val() == "host" })
			require.False(t, isClosed(served.lock.Done()))
			requireOrder(t, served.lock, results, "last")
			awaitNoKeys(t, rdb)
		})
	}
}

// The leaving of a call that failed is late. It must not take the lock from the next call
// by the same token, nor its place.
func TestFairQueue_customTokenTriesAgain(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	rdb, client := server.Client(), server.Client()
	var gate gate
	client.AddHook(&gate)
	host := fair()
	host.Token = "host"
	for _, before := range []string{"the next is queued", "the next is served"} {
		t.Run(before, func(t *testing.T) {
			lock := obtain(t, rdb, fair())
			results := make(chan obtained, 3)
			ctx, cancel := context.WithCancel(t.Context())
			waitInLine(t, ctx, rdb, client, "failed", host, results)
			awaitChannels(t, rdb, 1)
			leaves := gate.close("leave")
			cancel()
			require.Equal(t, "failed", receive(t, results).name)
			gate.await(t, leaves, 1)

			go func() {
				lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, host)
				results <- obtained{"again", lock, err, time.Now()}
			}()
			waitInLine(t, t.Context(), rdb, rdb, "last", fair(), results)
			awaitChannels(t, rdb, 2)
			comeLate := func() {
				calls := server.Calls("evalsha") + server.Calls("eval")
				gate.open("leave")
				leaves.release()
				require.Eventually(t, func() bool { return server.Calls("evalsha")+server.Calls("eval") > calls },
					10*time.Second, time.Millisecond)
			}
			if before == "the next is queued" {
				comeLate()
				requireStays(t, 500*time.Millisecond, func() bool { return queued(t, rdb) == 2 })
			}
			require.NoError(t, lock.Release(t.Context()))
			served := receive(t, results)
			require.Equal(t, "again", served.name)
			if before == "the next is served" {
				comeLate()
			}
			requireStays(t, 500*time.Millisecond, func() bool { return rdb.Get(t.Context(), key).Val() == "host" })
			require.False(t, isClosed(served.lock.Done()))
			requireOrder(t, served.lock, results, "last")
			awaitNoKeys(t, rdb)
		})
	}
}

// Messages reach the waiters of a client that changes keys, too.
func TestFairQueue_clientThatChangesKeys(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	client := prefixer{rdb}
	lock := obtain(t, client, fair())
	names := manyNames()
	results := make(chan obtained, len(names))
	for i, name := range names {
		go func() {
			lock, err := redislock.Obtain(t.Context(), client, key, ttl, fair())
			results <- obtained{name, lock, err, time.Now()}
		}()
		awaitChannelsOf(t, rdb, "my-"+waitersKey, i+1)
	}
	requirePromptness(t, lock, results, names...)
	awaitNoKeys(t, rdb)
}

// A holder whose TTL is the longest there is is not asked after all the time.
func TestFairQueue_longestTTL(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	const longest = time.Duration(math.MaxInt64)
	lock, err := redislock.Obtain(t.Context(), rdb, key, longest, fair())
	require.NoError(t, err)
	assert.Greater(t, time.Until(lock.ValidUntil()), longest/2)
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan obtained, 1)
	go func() {
		lock, err := redislock.Obtain(ctx, rdb, key, longest, fair())
		results <- obtained{"waiter", lock, err, time.Now()}
	}()
	awaitQueue(t, rdb, 1)
	awaitChannels(t, rdb, 1)
	asks := server.Calls("evalsha")
	requireStays(t, 500*time.Millisecond, func() bool { return server.Calls("evalsha") <= asks+5 })
	cancel()
	require.ErrorIs(t, receive(t, results).err, context.Canceled)
	assert.Zero(t, queued(t, rdb))
	require.NoError(t, lock.Release(t.Context()))
	awaitNoKeys(t, rdb)
}

// servedWhileAsking returns a lock that was handed to a waiter while an ask of it was under
// way, which the gate holds back.
func servedWhileAsking(t *testing.T) (rdb, client *redis.Client, served *redislock.Lock, gate *gate, asks *hold) {
	t.Helper()
	rdb, lock, client, gate := gatedHolder(t)
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, client, "waiter", fair(), results)
	awaitChannels(t, rdb, 1)
	asks = gate.close("ask")
	gate.await(t, asks, 1)
	require.NoError(t, lock.Release(t.Context()))
	result := receive(t, results)
	require.NoError(t, result.err)
	return rdb, client, result.lock, gate, asks
}

// gatedHolder returns a lock of one client, and another client with a gate.
func gatedHolder(t *testing.T) (rdb *redis.Client, lock *redislock.Lock, client *redis.Client, g *gate) {
	t.Helper()
	server := redistest.Start(t)
	rdb, client, g = server.Client(), server.Client(), &gate{}
	client.AddHook(g)
	return rdb, obtain(t, rdb, fair()), client, g
}

// An ask comes after the lock that it asked for was refreshed for longer.
func TestFairQueue_lateAsk(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	rdb, _, lock, gate, asks := servedWhileAsking(t)
	require.NoError(t, lock.Refresh(t.Context(), time.Hour, nil))
	gate.open("ask")
	asks.release()
	requireStays(t, 500*time.Millisecond, func() bool { return rdb.PTTL(t.Context(), key).Val() >= 59*time.Minute })
	require.NoError(t, lock.Release(t.Context()))
	awaitNoKeys(t, rdb)
}

// A lock is released twice while an ask that was under way is being seen to.
func TestFairQueue_secondRelease(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	rdb, client, lock, gate, asks := servedWhileAsking(t)
	require.NoError(t, lock.Release(t.Context()))
	gate.open("ask")
	asks.fail()
	require.Eventually(t, func() bool { return redislock.Tasks(client) > 0 }, 10*time.Second, time.Millisecond, "it leaves")
	require.Equal(t, redislock.ErrLockNotHeld, lock.Release(t.Context()))
	require.Eventually(t, func() bool { return redislock.Tasks(client) == 0 }, 10*time.Second, time.Millisecond)
	awaitNoKeys(t, rdb)
}

// strays is a client without channels that loses asks on request: they fail at once, or when
// they are let go, and arrive when the test sends them.
type strays struct {
	redis.Scripter
	mu   sync.Mutex
	lose chan struct{} // closed to let the next one go; nil: none is lost
	lost chan func(ctx context.Context) *redis.Cmd
}

func (s *strays) EvalSha(ctx context.Context, digest string, keys []string, args ...any) *redis.Cmd {
	s.mu.Lock()
	lose := s.lose
	if lose == nil || redislock.ScriptName(digest) != "ask" {
		s.mu.Unlock()
		return s.Scripter.EvalSha(ctx, digest, keys, args...)
	}
	s.lose = nil
	s.mu.Unlock()
	s.lost <- func(ctx context.Context) *redis.Cmd { return s.Scripter.EvalSha(ctx, digest, keys, args...) }
	<-lose
	return redis.NewCmdResult(nil, errors.New("lost"))
}

// loseNext has the next ask be lost, which fails when fail is closed.
func (s *strays) loseNext(fail chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose = fail
}

// An ask was lost on its way, and arrives when the waiter is not there any more: the lock has
// been obtained by another ask, and released, or the waiting was given up.
func TestFairQueue_strayAsk(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	failsAtOnce := make(chan struct{})
	close(failsAtOnce)
	start := func(t *testing.T, fail chan struct{}) (rdb *redis.Client, holder *redislock.Lock, arrive func(), cancel func(), results chan obtained) {
		rdb, holder, client, _ := gatedHolder(t)
		strays := &strays{Scripter: client, lost: make(chan func(context.Context) *redis.Cmd, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		results = make(chan obtained, 1)
		waitInLine(t, ctx, rdb, strays, "waiter", fair(), results)
		strays.loseNext(fail)
		ask := <-strays.lost
		return rdb, holder, func() { require.NoError(t, ask(t.Context()).Err()) }, cancel, results
	}
	t.Run("failed while waiting", func(t *testing.T) {
		rdb, holder, arrive, _, results := start(t, failsAtOnce)
		require.NoError(t, holder.Release(t.Context()))
		served := receive(t, results)
		require.NoError(t, served.err)
		require.NoError(t, served.lock.Release(t.Context()))
		arrive()
		awaitNoKeys(t, rdb)
	})
	t.Run("failed while the lock was held", func(t *testing.T) {
		fail := make(chan struct{})
		rdb, holder, arrive, _, results := start(t, fail)
		require.NoError(t, holder.Release(t.Context()))
		served := receive(t, results)
		require.NoError(t, served.err)
		close(fail)
		time.Sleep(50 * time.Millisecond) // for the failure to be taken in, or the test is another
		require.NoError(t, served.lock.Release(t.Context()))
		arrive()
		awaitNoKeys(t, rdb)
	})
	t.Run("given up", func(t *testing.T) {
		rdb, holder, arrive, cancel, results := start(t, failsAtOnce)
		cancel()
		require.ErrorIs(t, receive(t, results).err, context.Canceled)
		require.NoError(t, holder.Release(t.Context()))
		arrive()
		awaitNoKeys(t, rdb)
	})
}

// Without a deadline a call waits for as long as the TTL, and then until it has left, but not for
// long if Redis does not answer.
func TestFairQueue_withoutADeadline(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb, waiting, gate := server.Client(), server.Client(), &gate{}
	waiting.AddHook(gate)
	obtain(t, rdb, fair())
	leaves := gate.close("leave")
	const ttl, grace = time.Second, 250 * time.Millisecond
	start := time.Now()
	_, err := redislock.Obtain(t.Context(), waiting, key, ttl, fair())
	took := time.Since(start)
	assert.ErrorIs(t, err, redislock.ErrNotObtained)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.GreaterOrEqual(t, took, ttl+grace-10*time.Millisecond)
	assert.Less(t, took, ttl+10*time.Second)
	gate.open("leave")
	leaves.release()
	require.Eventually(t, func() bool { return queued(t, rdb) == 0 }, 10*time.Second, time.Millisecond)
}

// Who gives up has left when the call returns, which then does not wait for long; and nothing
// counts those that have left.
func TestFairQueue_manyGiveUp(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	lock := obtain(t, rdb, fair())
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, rdb, "stays", fair(), results)
	const n = 40
	start := time.Now()
	for range n {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, err := redislock.Obtain(ctx, rdb, key, ttl, fair())
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	assert.Less(t, time.Since(start), n*250*time.Millisecond)
	require.Eventually(t, func() bool { return redislock.Leaving(rdb) == 0 }, 20*time.Second, time.Millisecond)
	requireOrder(t, lock, results, "stays")
}

// What Redis refuses to do for a waiter ends the waiting.
func TestFairQueue_refusedWhileWaiting(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	obtain(t, rdb, fair())
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, rdb, "waits", fair(), results)
	require.NoError(t, rdb.Set(t.Context(), queueKey, "not a queue", 0).Err())
	start := time.Now()
	assert.ErrorContains(t, receive(t, results).err, "WRONGTYPE")
	assert.Less(t, time.Since(start), 8*time.Second, "a server that is silent is asked for longer")
	require.NoError(t, rdb.Del(t.Context(), queueKey).Err())
}

// unanswered is a hook that has scripts outside of pipelines not be answered, on request.
type unanswered struct{ on atomic.Bool }

func (u *unanswered) DialHook(next redis.DialHook) redis.DialHook { return next }
func (u *unanswered) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if u.on.Load() && cmd.Name() == "evalsha" {
			cmd.SetErr(errors.New("no answer"))
			return cmd.Err()
		}
		return next(ctx, cmd)
	}
}
func (u *unanswered) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// A message says whose turn it is, but the ask for the fencing token is not answered. The next
// one is.
func TestFairQueue_turnThatIsNotAnswered(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb, waiting, hook := server.Client(), server.Client(), &unanswered{}
	waiting.AddHook(hook)
	opt := func() *redislock.Options {
		return &redislock.Options{RetryStrategy: redislock.FairQueue(), FenceKey: "fence"}
	}
	lock := obtain(t, rdb, opt())
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, waiting, "waits", opt(), results)
	awaitChannels(t, rdb, 1)
	hook.on.Store(true)
	require.NoError(t, lock.Release(t.Context()))
	got := receive(t, results)
	require.NoError(t, got.err)
	assert.EqualValues(t, 2, got.lock.FenceToken())
	hook.on.Store(false)
	require.NoError(t, got.lock.Release(t.Context()))
}

// A wait is counted once, and nobody is counted who does not wait any more.
func TestFairQueue_counts(t *testing.T) {
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	lock := obtain(t, rdb, fair())
	got := counted(func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := redislock.Obtain(ctx, rdb, key, ttl, fair())
		assert.ErrorIs(t, err, redislock.ErrNotObtained)
	})
	assert.Equal(t, redislock.Stats{Obtain: redislock.Status{Cancel: 1}, Backoff: 1}, got)
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, rdb, "waits", fair(), results)
	require.Eventually(t, func() bool { return redislock.Waiting(rdb) == 1 }, 10*time.Second, time.Millisecond)
	requireOrder(t, lock, results, "waits")
	assert.Zero(t, redislock.Waiting(rdb))
}

// A key that cannot be used is an error, not a call that was given up. Nobody is asked.
func TestFairQueue_keyWithABraceOnACluster(t *testing.T) {
	t.Parallel()
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	defer cluster.Close()
	var tally tally
	_, err := redislock.New(cluster).WithObserver(&tally).Obtain(t.Context(), "a}b", ttl, fair())
	assert.ErrorContains(t, err, `"a}b"`)
	tally.require(t, map[string]int{"obtain error": 1})
}
