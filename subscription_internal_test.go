package redislock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A pubsubServer is a Redis server that knows what subscribers say.
type pubsubServer struct {
	start time.Time

	mu         sync.Mutex
	refuse     string // what it answers to who would subscribe; "" to let them
	silent     bool   // it answers nothing
	mute       bool   // it does not answer to who would subscribe
	hangUp     bool   // it closes the next connection after the handshake
	subscribed []time.Duration
	dialed     int
	open       int // connections
	pings      int
	conns      []net.Conn
}

func (s *pubsubServer) client() *redis.Client {
	return redis.NewClient(&redis.Options{
		Protocol:        2,
		DisableIdentity: true,
		// Else the client looks for the address of the name localhost.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			s.mu.Lock()
			defer s.mu.Unlock()
			s.dialed++
			s.open++
			s.conns = append(s.conns, far)
			go s.serve(far)
			return near, nil
		},
	})
}

func (s *pubsubServer) serve(conn net.Conn) {
	defer s.become(func() { s.open-- })
	defer conn.Close()
	for r := bufio.NewReader(conn); ; {
		command, err := readCommand(r)
		if err != nil {
			return
		}
		answer, hangUp := s.answer(command)
		if _, err := io.WriteString(conn, answer); err != nil || hangUp {
			return
		}
	}
}

func readCommand(r *bufio.Reader) (words []string, err error) {
	line := func() (string, error) {
		s, err := r.ReadString('\n')
		return strings.TrimRight(s, "\r\n"), err
	}
	head, err := line()
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimPrefix(head, "*"))
	for range n {
		if _, err = line(); err != nil {
			break
		}
		word, _ := line()
		words = append(words, word)
	}
	return words, err
}

func (s *pubsubServer) answer(command []string) (answer string, hangUp bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hangUp, s.hangUp = s.hangUp, false
	return s.reply(command), hangUp
}

func (s *pubsubServer) reply(command []string) string {
	switch {
	case s.silent || s.mute && command[0] == "subscribe":
		return ""
	case command[0] == "subscribe" && s.refuse != "":
		s.subscribed = append(s.subscribed, time.Since(s.start))
		return "-" + s.refuse + "\r\n"
	case command[0] == "subscribe":
		s.subscribed = append(s.subscribed, time.Since(s.start))
		return fmt.Sprintf("*3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:1\r\n", len(command[1]), command[1])
	case command[0] == "ping":
		s.pings++
		return "*2\r\n$4\r\npong\r\n$0\r\n\r\n"
	default:
		return "-ERR unknown command\r\n"
	}
}

func (s *pubsubServer) become(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *pubsubServer) cut() {
	for _, conn := range s.conns {
		conn.Close()
	}
	s.conns = nil
}

// times are those of the subscriptions, since there were none.
func (s *pubsubServer) times() (times []time.Duration) {
	synctest.Wait()
	s.become(func() { times, s.subscribed = s.subscribed, nil })
	return times
}

// testSubscription runs a test of a subscription with one waiter, which is closed in the end.
func testSubscription(t *testing.T, test func(t *testing.T, s *pubsubServer, b *subscription, client *redis.Client)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &pubsubServer{start: time.Now()}
		client := s.client()
		defer client.Close()
		w := newWaiter(claimOn(client, &noOptions), time.Minute, &Options{})
		w.listen()
		w.mu.Lock()
		subscribeLocked(w)
		b := w.subscription
		w.unlock()
		test(t, s, b, client)
		if isClosed(b.closed) {
			return
		}
		w.giveUp()
		time.Sleep(subscriptionIdle)
		synctest.Wait()
		assert.True(t, isClosed(b.closed), "nobody needs it")
	})
}

// While all is well a subscription stays, and is looked at every few seconds.
func TestSubscription_calm(t *testing.T) {
	testSubscription(t, func(t *testing.T, s *pubsubServer, b *subscription, _ *redis.Client) {
		assert.Equal(t, []time.Duration{0}, s.times())
		time.Sleep(time.Minute)
		assert.Empty(t, s.times())
		s.become(func() { assert.InDelta(t, 20, s.pings, 1) })
	})
}

// A subscription that does not answer is replaced by another, on a connection of its own, and the
// subscription goes on.
func TestSubscription_silence(t *testing.T) {
	testSubscription(t, func(t *testing.T, s *pubsubServer, b *subscription, _ *redis.Client) {
		for range 3 {
			require.Len(t, s.times(), 1)
			s.become(func() { s.silent = true })
			time.Sleep(3 * subscriptionCheck)
			s.become(func() { s.silent = false })
			time.Sleep(3 * subscriptionCheck)
		}
		require.False(t, isClosed(b.closed))
		synctest.Wait()
		s.become(func() { assert.Equal(t, 1, s.open, "the others are closed") })
		b.mu.Lock()
		defer b.unlock()
		assert.True(t, b.confirmed)
	})
}

// A connection that was cut is followed by another at once.
func TestSubscription_cut(t *testing.T) {
	testSubscription(t, func(t *testing.T, s *pubsubServer, b *subscription, _ *redis.Client) {
		require.Len(t, s.times(), 1)
		for range 3 {
			time.Sleep(time.Second)
			s.become(s.cut)
			require.Len(t, s.times(), 1)
		}
	})
}

// A server that refuses the subscription is asked for it again now and then, on the same
// connection's terms: not sooner, and for as long as somebody waits.
func TestSubscription_refused(t *testing.T) {
	testSubscription(t, func(t *testing.T, s *pubsubServer, b *subscription, _ *redis.Client) {
		require.Len(t, s.times(), 1)
		s.become(func() { s.refuse = "NOPERM this user has no permissions" })
		s.become(s.cut)
		require.NotEmpty(t, s.times())
		for range 3 {
			time.Sleep(subscriptionRefused - time.Millisecond)
			require.Empty(t, s.times())
			time.Sleep(time.Millisecond)
			require.Len(t, s.times(), 1)
		}
		s.become(func() { s.refuse = "" })
		time.Sleep(subscriptionRefused)
		require.Len(t, s.times(), 1)
		time.Sleep(time.Minute)
		require.Empty(t, s.times())
	})
}

// A server that is not ready is asked again soon.
func TestSubscription_notReady(t *testing.T) {
	testSubscription(t, func(t *testing.T, s *pubsubServer, b *subscription, _ *redis.Client) {
		require.Len(t, s.times(), 1)
		s.become(func() { s.refuse = "LOADING Redis is loading the dataset in memory" })
		s.become(s.cut)
		s.times()
		time.Sleep(time.Second)
		assert.InDelta(t, time.Second/subscriptionRetry, len(s.times()), 1)
	})
}

// A connection that is lost just before the subscribing is followed by one on which go-redis does
// not subscribe.
func TestSubscription_lostBeforeItSubscribes(t *testing.T) {
	testSubscription(t, func(t *testing.T, s *pubsubServer, b *subscription, _ *redis.Client) {
		require.Len(t, s.times(), 1)
		s.become(func() { s.hangUp = true })
		b.renew()
		s.times()
		time.Sleep(subscriptionCheck + subscriptionRetry)
		s.times()
		b.mu.Lock()
		defer b.unlock()
		assert.True(t, b.confirmed)
	})
}

// Once the Redis client is closed the subscription is, too, and forgotten.
func TestSubscription_clientClosed(t *testing.T) {
	testSubscription(t, func(t *testing.T, s *pubsubServer, b *subscription, client *redis.Client) {
		require.Len(t, s.times(), 1)
		require.NoError(t, client.Close())
		s.become(s.cut)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.True(t, isClosed(b.closed))
		b.mu.Lock()
		defer b.unlock()
		assert.NotContains(t, b.subscriptions, b.key)
	})
}

func FuzzParseHandover(f *testing.F) {
	f.Add("process.1:2:1:a2V5 value")
	f.Add(":-9223372036854775808:0u:YQ ")
	f.Add("1:2:3::4 x")
	f.Add(":: ")
	f.Fuzz(func(t *testing.T, message string) {
		h, ok := parseHandover(message)
		if !ok {
			return
		}
		again, ok := parseHandover(h.ticket() + " " + h.value)
		assert.True(t, ok)
		assert.Equal(t, h, again)
		assert.True(t, strings.HasSuffix(message, " "+h.value))
	})
}

func TestParseHandover(t *testing.T) {
	for _, h := range []handover{
		{id: "process.7", sent: -time.Second, limit: exclusiveLimit, key: "a: {", value: "value 1"},
		{id: "process.8", sent: time.Hour, limit: 12, unique: true, key: "k", value: "v"},
		{id: "9", limit: math.MaxInt32, key: "key"},
	} {
		again, ok := parseHandover(h.ticket() + " " + h.value)
		assert.True(t, ok)
		assert.Equal(t, h, again)
	}
}

// unusedSubscription returns a subscription without a subscription.
func unusedSubscription() *subscription {
	return &subscription{
		background: &background{servers: newServer(nil), closed: true},

		waiters: make(map[string]*waiter),
		holders: make(map[string]*waiter),
		idle:    time.NewTimer(time.Hour),
		closed:  make(chan struct{}),
	}
}

// Locks that are never released, only left to expire, are forgotten even so.
func TestSubscription_forgetsExpiredLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := unusedSubscription()
		for i := range 10_000 {
			w := &waiter{id: strconv.Itoa(i)}
			w.lock = &singleClaim{}
			w.lock.lease.begin(sinceEpoch(), time.Second)
			b.serveLocked(w)
			time.Sleep(100 * time.Millisecond)
		}
		assert.LessOrEqual(t, len(b.holders), 128)
		assert.Contains(t, b.holders, "9999")
	})
}

func TestParseHandover_malformed(t *testing.T) {
	for _, message := range []string{
		"", " ", "id", "id:1", "id:1:2", "id:1:2:", "id:1:2: value", "id:1:2:YQ", "id:1:YQ value", "id:x:2:YQ value", "id:1:x:YQ value",
		"id:1:2:%% value", "id::2:YQ value", "id:1::YQ value", "id:1:4294967297:YQ value", "id 1 2 YQ value",
	} {
		h, ok := parseHandover(message)
		assert.False(t, ok, "%q", message)
		assert.Zero(t, h, "%q", message)
	}
}

// A subscription that somebody has come to use meanwhile is not closed.
func TestSubscription_closeIfIdle(t *testing.T) {
	b := unusedSubscription()
	b.waiters["one"] = &waiter{}
	b.closeIfIdle()
	assert.False(t, isClosed(b.closed))
	delete(b.waiters, "one")
	b.closeIfIdle()
	assert.True(t, isClosed(b.closed))
	assert.False(t, b.idle.Stop())
}

// A subscription stays for some time after the last waiter has left it, however many locks that it
// has brought are released meanwhile.
func TestSubscription_idle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := unusedSubscription()
		start := time.Now()
		var closed time.Duration
		s.idle = time.AfterFunc(time.Hour, func() { closed = time.Since(start) })
		holder, waiter, last := waiterOf(&answering{}), waiterOf(&answering{}), waiterOf(&answering{})
		s.addLocked(holder)
		s.addLocked(waiter)
		s.addLocked(last)
		s.serveLocked(holder)
		s.removeLocked(waiter)
		s.removeLocked(last)
		time.Sleep(subscriptionIdle / 2)
		s.removeLocked(holder)
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, 3*time.Second, closed)
	})
}

// reloading is a client that can be asked to find out which nodes there are.
type reloading struct {
	answering
	reloaded int
}

func (r *reloading) ReloadState(context.Context) { r.reloaded++ }

// When there can be no subscription, the waiters are asked for at once: from then on they poll. Before
// that a client of several nodes is asked to look for them.
func TestSubscription_cannotBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &reloading{}
		w := waiterOf(&client.answering)
		w.enqueue()
		s := unusedSubscription()
		s.background, s.server, s.channel = w.background, newServer(client), "p"
		w.mu.Lock()
		s.addLocked(w)
		w.setDueLocked(sinceEpoch() + time.Hour)
		w.unlock()
		failures := 0
		s.run(func(context.Context, string) (*redis.PubSub, error) {
			failures++
			if failures > 2 {
				return nil, errCannotSubscribe
			}
			return nil, errors.New("failed")
		})
		assert.Equal(t, 2, client.reloaded)
		w.mu.Lock()
		assert.LessOrEqual(t, w.due, sinceEpoch())
		w.unlock()
		w.giveUp()
		time.Sleep(time.Minute)
	})
}

// Nobody counts on the messages of a subscription that has ended.
func TestSubscription_ended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := unusedSubscription()
		s.confirmed = true
		w := waiterOf(&answering{})
		s.addLocked(w)
		assert.True(t, w.canBeToldLocked())
		s.closeLocked()
		assert.False(t, w.canBeToldLocked())
	})
}

// On a new connection no message comes before the server says so.
func TestSubscription_notYet(t *testing.T) {
	testSubscription(t, func(t *testing.T, s *pubsubServer, b *subscription, _ *redis.Client) {
		require.Len(t, s.times(), 1)
		s.become(func() { s.mute = true })
		b.renew()
		synctest.Wait()
		b.mu.Lock()
		assert.False(t, b.confirmed)
		b.unlock()
		s.become(func() { s.mute = false })
		time.Sleep(time.Minute)
	})
}

// A subscription that is closed while it subscribes does not go on.
func TestSubscription_closedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &pubsubServer{start: time.Now()}
		client := server.client()
		defer client.Close()
		s := unusedSubscription()
		s.server, s.channel = newServer(client), "pchannel"
		s.run(func(ctx context.Context, channel string) (*redis.PubSub, error) {
			s.closeLocked()
			return client.Subscribe(ctx, channel), nil
		})
		synctest.Wait()
		server.become(func() { assert.Zero(t, server.open) })
	})
}

// A server that does not hear a subscription has it replaced, later each time.
func TestSubscription_unheardAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := unusedSubscription()
		start := time.Now()
		var renewed []time.Duration
		s.renew = func() { renewed = append(renewed, time.Since(start)) }
		for range 9 {
			start = time.Now()
			s.confirmed, s.since = true, sinceEpoch()
			s.noteUnheardLocked(sinceEpoch())
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		const first = 100 * time.Millisecond
		assert.Equal(t, []time.Duration{first, 2 * first, 4 * first, 8 * first, 16 * first, 32 * first, 64 * first,
			10 * time.Second, 10 * time.Second}, renewed)

		w := waiterOf(&answering{})
		defer w.giveUp()
		s.addLocked(w)
		s.deliver(handover{id: w.id, sent: sinceEpoch(), limit: exclusiveLimit, key: "key"}.ticket() + " " + w.lock.text())
		assert.Len(t, w.grants, 1)
		start, renewed = time.Now(), nil
		s.confirmed = true
		s.noteUnheardLocked(sinceEpoch())
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, []time.Duration{first}, renewed, "a message came meanwhile")
	})
}

// Messages may have been lost before a subscription was confirmed: all waiters ask, one after the
// other, but for those whose asks are under way.
func TestSubscription_confirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{}
		s := unusedSubscription()
		var waiters []*waiter
		for range 3 {
			w := waiterOf(server)
			w.enqueue()
			s.background = w.background
			w.mu.Lock()
			s.addLocked(w)
			w.setDueLocked(sinceEpoch() + time.Hour)
			w.unlock()
			waiters = append(waiters, w)
		}
		busy := waiters[2]
		busy.underWay = 1
		s.confirm()
		s.mu.Lock()
		assert.True(t, s.confirmed)
		assert.Equal(t, sinceEpoch()+time.Hour, busy.due)
		first, second := min(waiters[0].due, waiters[1].due), max(waiters[0].due, waiters[1].due)
		assert.LessOrEqual(t, second, sinceEpoch()+2*askGap)
		assert.GreaterOrEqual(t, second-first, askGap)
		s.unlock()
		for _, w := range waiters {
			w.giveUp()
		}
		time.Sleep(time.Minute)
	})
}

// What is no message, or refers to an ask that is yet to be made, is not taken for one, nor answered.
func TestSubscription_deliversNothing(t *testing.T) {
	server := &answering{start: time.Now()}
	w := waiterOf(server)
	defer w.giveUp()
	s := unusedSubscription()
	s.server = w.lock.server()
	s.addLocked(w)
	s.deliver("garbage")
	s.deliver(handover{id: w.id, sent: sinceEpoch() + time.Hour, limit: exclusiveLimit, key: "key"}.ticket() + " " + w.lock.text())
	s.deliver(handover{id: "unknown", sent: sinceEpoch() + time.Hour, limit: exclusiveLimit, key: "key"}.ticket() + " value")
	assert.Empty(t, w.grants)
	assert.Zero(t, Tasks(server))
	assert.Empty(t, server.made())
}

// What was handed over to a call that this process does not know, any more, is passed on; what a
// holder is told twice is not.
func TestSubscription_deliversToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &fakeNode{}
		s := unusedSubscription()
		s.server = newServer(server)
		s.holders["holder"] = &waiter{}
		for _, id := range []string{"holder", "gone"} {
			s.deliver(handover{id: id, sent: sinceEpoch(), limit: exclusiveLimit, key: "key"}.ticket() + " value")
		}
		time.Sleep(time.Minute)
		left := server.ran("leave")
		assert.Len(t, left, 1)
		assert.Equal(t, []any{"value", "gone"}, left[0][:2])
	})
}

// Where keys are spread over nodes, each failure may mean that another node has the key now.
func TestSubscription_ofANode(t *testing.T) {
	push := func(s *pubsubServer, message string) {
		for _, conn := range s.conns {
			_, _ = io.WriteString(conn, message)
		}
	}
	for name, fail := range map[string]func(s *pubsubServer, client *redis.Client){
		"connection cut":         func(s *pubsubServer, _ *redis.Client) { s.become(s.cut) },
		"the node's client ends": func(s *pubsubServer, client *redis.Client) { _ = client.Close(); s.become(s.cut) },
		"the slot is moved": func(s *pubsubServer, _ *redis.Client) {
			push(s, "*3\r\n$12\r\nsunsubscribe\r\n$7\r\nchannel\r\n:0\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := unusedSubscription()
				s.server, s.channel = &server{isCluster: true}, "schannel"
				var node *pubsubServer
				var client *redis.Client
				nodes := 0
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					s.run(func(ctx context.Context, channel string) (*redis.PubSub, error) {
						if nodes++; nodes > 1 {
							return nil, errCannotSubscribe
						}
						node = &pubsubServer{start: time.Now()}
						client = node.client()
						return client.Subscribe(ctx, channel), nil
					})
				}()
				synctest.Wait()
				defer client.Close()
				fail(node, client)
				time.Sleep(time.Second)
				select {
				case <-ended:
					assert.Equal(t, 2, nodes)
				default:
					s.closeIfIdle()
					assert.Fail(t, "the node was not looked for")
				}
			})
		})
	}
}

// A node whose client has ended is not the end of the client of all nodes.
func TestSubscription_ofANodeThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := unusedSubscription()
		s.server, s.channel = &server{isCluster: true}, "schannel"
		nodes := 0
		s.run(func(ctx context.Context, channel string) (*redis.PubSub, error) {
			if nodes++; nodes > 1 {
				return nil, errCannotSubscribe
			}
			client := (&pubsubServer{start: time.Now()}).client()
			require.NoError(t, client.Close())
			return client.Subscribe(ctx, channel), nil
		})
		assert.Equal(t, 2, nodes)
	})
}

// noting is a Redis that notes the arguments of scripts.
type noting struct {
	redis.Scripter
	mu   sync.Mutex
	args [][]any
}

func (n *noting) EvalSha(_ context.Context, _ string, _ []string, args ...any) *redis.Cmd {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.args = append(n.args, args)
	return redis.NewCmdResult(int64(1), nil)
}

// A message for a waiter that has gone is answered once, for that call alone: others may have its
// token.
func TestHandover_passOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &noting{}
		for _, h := range []handover{
			{id: "id", limit: exclusiveLimit, key: "key", value: "value"},
			{id: "id", limit: 3, unique: true, key: "key", value: "value"},
		} {
			told, ok := parseHandover(h.ticket() + " " + h.value)
			require.True(t, ok)
			require.Equal(t, h, told)
			told.passOn(newServer(client))
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		// A generated token is that call's alone, whatever is known of how it came by the lock.
		assert.Equal(t, [][]any{{"value", "id", 0}, {"value", "id", 1, int32(3)}}, client.args)
	})
}

// Those whose locks have expired are looked for when there are 64, or twice as many as there were.
func TestSubscription_sweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := unusedSubscription()
		serve := func(validFor time.Duration) {
			w := waiterOf(&answering{})
			w.lock.lease.validUntil = sinceEpoch() + validFor
			s.addLocked(w)
			s.serveLocked(w)
			w.background.asking--
		}
		for range 40 {
			serve(time.Minute)
		}
		for range 23 {
			serve(-undoGrace - 1)
		}
		assert.Len(t, s.holders, 63)
		serve(-undoGrace - 1)
		assert.Len(t, s.holders, 40)
		for range 39 {
			serve(-undoGrace - 1)
		}
		assert.Len(t, s.holders, 79)
		serve(-undoGrace - 1)
		assert.Len(t, s.holders, 40)
	})
}
