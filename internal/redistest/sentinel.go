package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// Replicated is a master with two replicas, watched by Sentinels.
type Replicated struct {
	Master    *Server
	Replicas  []*Server
	Sentinels []*Server

	t testing.TB
}

const masterName = "primary"

// StartReplicas starts a master and two replicas that follow it, without Sentinels. That
// TakesLong.
func StartReplicas(t testing.TB) *Replicated {
	t.Helper()
	TakesLong(t)
	start := func(args ...string) *Server { return Start(t, append(args, "--repl-diskless-sync-delay", "0")...) }
	r := &Replicated{t: t, Master: start()}
	for range 2 {
		r.Replicas = append(r.Replicas, start("--replicaof", "127.0.0.1 "+r.Master.port()))
	}
	for _, replica := range r.Replicas {
		replica.awaitInfo("master_link_status:up")
	}
	r.Master.awaitReplicas(2)
	return r
}

// StartSentinel starts a master, two replicas and that many Sentinels. They fail over when
// the master has been away for one and a half seconds: Sentinels ask it once a second, or as often as the
// time that is set here if that is shorter, and would then believe it dead by accident.
func StartSentinel(t testing.TB, sentinels int) *Replicated {
	t.Helper()
	r := StartReplicas(t)
	for range sentinels {
		r.Sentinels = append(r.Sentinels, startSentinel(t, r.Master, sentinels/2+1))
	}
	for _, sentinel := range r.Sentinels {
		client := redis.NewSentinelClient(&redis.Options{Addr: sentinel.Addr})
		defer client.Close()
		require.Eventually(t, func() bool {
			others, err1 := client.Sentinels(context.Background(), masterName).Result()
			replicas, err2 := client.Replicas(context.Background(), masterName).Result()
			return err1 == nil && err2 == nil && len(others) == sentinels-1 && len(replicas) == 2
		}, startTimeout, 10*time.Millisecond, "the Sentinels know of all")
	}
	return r
}

func startSentinel(t testing.TB, master *Server, quorum int) *Server {
	t.Helper()
	sentinel := newServer(t)
	config := filepath.Join(t.TempDir(), "sentinel.conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
bind 127.0.0.1
port %[1]s
dir %[2]s
sentinel monitor %[3]s 127.0.0.1 %[4]s %[5]d
sentinel down-after-milliseconds %[3]s 1500
sentinel failover-timeout %[3]s 2000
`, sentinel.port(), t.TempDir(), masterName, master.port(), quorum), 0o600))
	sentinel.args = []string{config, "--sentinel"}
	sentinel.Restart()
	return sentinel
}

// Client returns a client that follows the master, and is closed with the test.
func (r *Replicated) Client(changes ...func(*redis.FailoverOptions)) *redis.Client {
	r.t.Helper()
	options := &redis.FailoverOptions{MasterName: masterName}
	for _, sentinel := range r.Sentinels {
		options.SentinelAddrs = append(options.SentinelAddrs, sentinel.Addr)
	}
	for _, change := range changes {
		change(options)
	}
	client := redis.NewFailoverClient(options)
	r.t.Cleanup(func() { _ = client.Close() })
	return client
}

// FailOver kills the master, waits until the Sentinels have replaced it by a replica, and
// starts it again as one.
func (r *Replicated) FailOver() {
	r.t.Helper()
	r.failOver(r.Master.Kill, r.Master.Restart)
}

// FailOverStopped stops the master until it has been replaced. When it goes on it takes
// itself for the master for a moment.
func (r *Replicated) FailOverStopped() {
	r.t.Helper()
	r.failOver(r.Master.Pause, r.Master.Resume)
}

func (r *Replicated) failOver(fail, comeBack func()) {
	r.t.Helper()
	old := r.Master
	fail()
	require.Eventually(r.t, func() bool { return r.promote() && r.Master != old }, startTimeout, 10*time.Millisecond,
		"the Sentinels have a new master")
	r.Master.awaitInfo("role:master")
	comeBack()
	// The Sentinels would see to it too, but in their own time.
	require.Eventually(r.t, func() bool { return r.promote() && r.follow() && r.settled() }, startTimeout, 50*time.Millisecond,
		"the replicas follow the new master")
}

// promote notes which server is the master. It is false if the Sentinels do not agree.
func (r *Replicated) promote() bool {
	master := ""
	for _, sentinel := range r.Sentinels {
		client := redis.NewSentinelClient(&redis.Options{Addr: sentinel.Addr})
		addr, err := client.GetMasterAddrByName(context.Background(), masterName).Result()
		_ = client.Close()
		if err != nil || master != "" && master != net.JoinHostPort(addr[0], addr[1]) {
			return false
		}
		master = net.JoinHostPort(addr[0], addr[1])
	}
	for i, replica := range r.Replicas {
		if replica.Addr == master {
			r.Master, r.Replicas[i] = replica, r.Master
		}
	}
	return true
}

// settled reports whether the Sentinels are done with the failover: they do not begin the
// next before.
func (r *Replicated) settled() bool {
	for _, sentinel := range r.Sentinels {
		client := redis.NewSentinelClient(&redis.Options{Addr: sentinel.Addr})
		state, err := client.Master(context.Background(), masterName).Result()
		_ = client.Close()
		if err != nil || state["flags"] != "master" || state["port"] != r.Master.port() {
			return false
		}
	}
	return true
}

// follow has the replicas follow the master, and reports whether they do.
func (r *Replicated) follow() bool {
	follow := true
	for _, replica := range r.Replicas {
		client := redis.NewClient(&redis.Options{Addr: replica.Addr})
		info := client.Info(context.Background(), "replication").Val()
		if !strings.Contains(info, "master_port:"+r.Master.port()+"\r") {
			_ = client.ReplicaOf(context.Background(), "127.0.0.1", r.Master.port()).Err()
		}
		_ = client.Close()
		follow = follow && strings.Contains(info, "master_link_status:up")
	}
	return follow
}
