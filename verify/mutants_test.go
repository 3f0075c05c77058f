package verify

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var withMutants = flag.Bool("mutants", false, "break the library on purpose and see that the tests find out")

// A mutant is a deliberate bug: in a copy of the library old is replaced by new.
type mutant struct {
	name, file, old, new string
	verify               bool   // whether this module's tests find out, else the library's
	tests                string // that do; none: only the simulation does
	simulated            bool   // the simulation does, too
	locks                string // that the simulation needs to have, as -locks names them
}

var mutants = []mutant{
	{
		name: "release does not compare the value", file: "lua/release.lua",
		old: "if redis.call('get', KEYS[i]) == ARGV[1] then", new: "if true then",
		verify: true, tests: "Faults/one_server$/none", simulated: true,
	},
	{
		name: "release of a queue does not compare the value", file: "lua/queue_release.lua",
		old: "if redis.call('get', KEYS[1]) ~= ARGV[1] then", new: "if false then",
		verify: true, tests: "Faults/one_server$/none", simulated: true,
	},
	{
		name: "refresh does not compare the value", file: "lua/refresh.lua",
		old: "elseif value ~= ARGV[1] then", new: "elseif false then",
		tests: "Refresh", simulated: true,
	},
	{
		// Nobody sees in which order one script does it; so it is the next that sets.
		name: "handover publishes before it sets", file: "lua/queue.lua",
		old: "			redis.call('set', KEYS[1], value, 'px', ttl)\n", new: "			redis.call('del', KEYS[1])\n",
		verify: true, tests: "Faults/one_server$/none", simulated: true,
	},
	{
		name: "queue does not skip the dead", file: "lua/queue.lua",
		old: " or value ~= asking and channel ~= '' and listeners(channel) == 0 then", new: " then",
		tests: "FairQueue_processKilled", simulated: true,
	},
	{
		name: "queue does not skip those that have not been heard of", file: "lua/queue.lua",
		old: "alive and tonumber(alive) >= now()", new: "alive",
		tests: "FairQueue_notHeardOf", simulated: true,
	},
	{
		name: "queue tells whom it skips", file: "lua/queue.lua",
		old: "listeners(channel) == 0 then\n", new: "listeners(channel) == 0 then\n			if present then tell(value, ticket, channel) end\n",
		tests: "FairQueue_messageToAReplica",
	},
	{
		name: "lease is longer than the TTL", file: "lease.go",
		old: "return ttl - ttl/100", new: "return 2 * ttl",
		verify: true, tests: "Faults/one_server$/none", simulated: true,
	},
	{
		name: "Done closes late by a TTL", file: "lease.go",
		old: "time.AfterFunc(l.lease.validUntil-sinceEpoch(), l.onAlarm)", new: "time.AfterFunc(l.lease.validUntil-sinceEpoch()+time.Second, l.onAlarm)",
		verify: true, tests: "Faults/one_server$/none", simulated: true,
	},
	{
		name: "watchdog swallows a loss", file: "watchdog.go",
		old: "t.lock.extended(call.sent, call.ttl, reply == 1, err)", new: "t.lock.extended(call.sent, call.ttl, true, err)",
		tests: "TickWatchdog",
	},
	{
		name: "quorum of n/2", file: "quorum.go",
		old: "return len(q.nodes)/2 + 1", new: "return len(q.nodes) / 2",
		verify: true, tests: "Faults/quorum_of_five/none", simulated: true,
	},
	{
		name: "healing brings back a released lock", file: "lua/quorum_heal.lua",
		old: "> tonumber(ARGV[3]) then", new: "< 0 then",
		tests: "Quorum_heal", simulated: true,
	},
	{
		name: "fencing token is not increased", file: "lua/obtain_multi.lua",
		old: "fence(KEYS[#KEYS], new)", new: "fence(KEYS[#KEYS], 0)",
		verify: true, tests: "Faults/one_server$/none", simulated: true,
	},
	{
		name: "fencing token is not increased in a queue", file: "lua/queue_ask.lua",
		old: "fence(KEYS[5], new)", new: "fence(KEYS[5], 0)",
		verify: true, tests: "Faults/one_server$/none", simulated: true,
	},
	{
		name: "replicas that have not confirmed count", file: "replicas.go",
		old: "if n < int64(c.replicas) {", new: "if n < 0 {",
		tests: "MinReplicas_refresh",
	},
	{
		name: "a lane closes while an attempt is under way", file: "scheduler.go",
		old: "if len(l.due) == 0 && l.busy == 0 {", new: "if len(l.due) == 0 {",
		tests: "Scheduler_leavesAfterAnAttempt", simulated: true,
	},
	{
		name: "pipelines go around a wrapper", file: "server.go",
		old: "	_, s.isCluster = client.(clusterClient)\n", new: "	_, s.isCluster = client.(clusterClient)\n	_, s.own = client.(pipeliner)\n",
		tests: "Scheduler_clientThatChangesKeys",
	},
	{
		name: "a Ring gets pipelines", file: "server.go",
		old: "s.pipelined = s.own && !s.isRing", new: "s.pipelined = s.own",
		tests: "Scheduler_ringIsClosed",
	},
	{
		name: "orphans of custom tokens are released", file: "single.go",
		old: "	if !c.unique {\n		close", new: "	if false {\n		close",
		tests: "customTokenIsLeftAlone", simulated: true,
	},
	{
		name: "releases by custom tokens are repeated", file: "deletion.go",
		old: "d.claim, d.ctx = l.claim, ctx", new: "d.claim, d.ctx = l.claim, context.WithoutCancel(ctx)",
		tests: "Release_customTokenIsNotRepeated", simulated: true,
	},
	{
		name: "leaving does not tell calls of one token apart", file: "lua/queue_leave.lua",
		old: "string.match(entry, before .. '([^:]*):') == id", new: "string.match(entry, before .. '([^:]*):') ~= nil",
		tests: "FairQueue_customToken", simulated: true,
	},
	{
		name: "an undo does not see that the key was obtained again", file: "lua/quorum_undo.lua",
		old: "if redis.call('get', mark) == ARGV[2] then", new: "if true then",
		tests: "Quorum_customTokenIsUndone", simulated: true,
	},
	{
		name: "a key that stays needs memory", file: "lua/release_keep.lua",
		old: "	redis.call('pexpire', mine[i], ARGV[3])\n", new: "",
		tests: "Options_holdAtLeastOutOfMemory",
	},
	{
		name: "a release that comes twice has the key stay for longer", file: "lua/release_keep.lua",
		old: "	if value == ARGV[1] then\n", new: "	if value == ARGV[1] or value == ARGV[2] then\n",
		tests: "Scripts_releaseKeepTwice",
	},
	{
		name: "the key of a lost lock stays", file: "bounds.go",
		old: "|| l.lease.cause != errReleased {", new: "|| l.lease.cause == nil {",
		tests: "Options_holdAtLeastOfALostLock",
	},
	{
		name: "a late release has the key stay for longer", file: "undo.go",
		old: "if u.renew != nil {", new: "if false {",
		tests: "Options_holdAtLeastWithoutAnAnswer",
	},
	{
		name: "refreshes outlast HoldAtMost", file: "bounds.go",
		old: "return min(ttl, (b.ends - now).Truncate(time.Millisecond))", new: "return ttl",
		tests: "TestOptions_holdAtMost$", simulated: true,
	},
	{
		name: "HoldAtLeast ends early", file: "bounds.go",
		old: "left := b.keptUntil - sinceEpoch()", new: "left := (b.keptUntil - sinceEpoch()) / 2",
		tests: "Bounds_round", simulated: true,
	},
	{
		name: "an election ends with a loss", file: "election.go",
		old: "return ended.Err() != nil, err", new: "return ended == nil, err",
		tests: "Election_lost",
	},
	{
		name: "a late reply to a refresh is believed", file: "lock.go",
		old: "case err == nil && cause != nil:", new: "case false:",
		tests: "Refresh_", simulated: true,
	},
	{
		name: "a refresh that was not answered is forgotten", file: "lease.go",
		old: "if unanswered || !everywhere || now-sent >= slowReply {", new: "if false {",
		tests: "Lease_straggler", simulated: true,
	},
	{
		name: "a late ask shortens the TTL", file: "lua/queue_ask.lua",
		old: "late and math.max(ttl, redis.call('pttl', KEYS[1])) or ttl", new: "ttl",
		tests: "FairQueue_lateAsk", simulated: true,
	},
	{
		name: "asks of those that have left are not undone", file: "waiter.go",
		old: "		w.leaveLocked(w.lane)\n", new: "",
		simulated: true,
	},
	{
		name: "a subscription is never checked", file: "subscription.go",
		old: "			if pinged || !replied {\n", new: "			if false && (pinged || !replied) {\n",
		simulated: true,
	},
	{
		name: "no other connection is tried", file: "scheduler.go",
		old: "		t.due = now + t.patience\n", new: "		t.due = now + time.Hour\n",
		tests: "Scheduler_deadConnection", simulated: true,
	},
	{
		name: "order follows a clock that was set back", file: "lua/queue_ask.lua",
		old: "since = math.max(since, tonumber(last or 0) + 1)", new: "since = since",
		simulated: true,
	},
	{
		name: "an obtained lock may have expired", file: "single.go",
		old: "case held && c.lease.remaining() <= 0:", new: "case false:",
		tests: "Obtain_replyTooLate", simulated: true,
	},
	{
		name: "the TTL of a lock that was handed over counts from the message", file: "queue.go",
		old: "stale := sinceEpoch()-grant.sent > w.ttl/10", new: "grant.sent = sinceEpoch()\n	stale := false",
		tests: "FairQueue_(processPaused|validUntil)", simulated: true,
	},
	{
		name: "a late refresh of a custom token shortens the TTL", file: "lock.go",
		old: "if !shorten && !l.unique {", new: "if false {",
		tests: "Token_lateRefresh", simulated: true,
	},
	{
		name: "asks that stray are forgotten", file: "queue.go",
		old: "strayed := w.strayUntil != 0", new: "strayed := false",
		tests: "FairQueue_strayAsk", simulated: true,
	},
	{
		name: "one mark for all keys", file: "lua/quorum_obtain.lua",
		old: "redis.call('set', KEYS[locks + i], ARGV[4]", new: "redis.call('set', KEYS[locks + 1], ARGV[4]",
		tests: "Token_undoOf", simulated: true,
	},
	{
		name: "what a late no leaves under way is not released", file: "single.go",
		old: ", !held && slow:", new: ":",
		tests: "Obtain_sentTwice", simulated: true,
	},
	{
		name: "an orphan is released once", file: "undo.go",
		old: "final := err != nil", new: "final := err == nil || err != nil",
		tests: "Obtain_sentTwice", simulated: true,
	},
	{
		name: "short intervals wait for long ones", file: "scheduler.go",
		old: "h[i].latest() < h[j].latest()", new: "h[i].due < h[j].due",
		tests: "Scheduler_shortAmongLong", simulated: true,
	},
	{
		name: "expired holders are counted", file: "lua/holders.lua",
		old: "redis.call('zcount', KEYS[2], from, '+inf')", new: "redis.call('zcard', KEYS[2])",
		tests: "HoldersObtain", simulated: true, locks: "limited",
	},
	{
		name: "expired holders may go on", file: "lua/holders.lua",
		old: "if ends > now() then", new: "if ends > 0 then",
		tests: "HoldersRefresh", simulated: true, locks: "limited|shared",
	},
	{
		name: "the keys end with the first holder", file: "lua/holders.lua",
		old: "redis.call('zrevrange', KEYS[2], 0, 0, 'withscores')", new: "redis.call('zrangebyscore', KEYS[2], '(0', '+inf', 'withscores')",
		tests: "HoldersObtain", simulated: true, locks: "limited|shared",
	},
	{
		name: "what is left of former holders counts again", file: "lua/holders.lua",
		old: "		redis.call('del', KEYS[2])\n", new: "",
		tests: "Holders_stale",
	},
	{
		name: "a custom token gets a second place", file: "lua/holders.lua",
		old: "if before and before ~= holder then", new: "if false then",
		tests: "HoldersObtain",
	},
	{
		name: "a release takes another's place", file: "lua/holders_release.lua",
		old: "redis.call('zrem', KEYS[2], holder)", new: "redis.call('zpopmin', KEYS[2])",
		tests: "HoldersRelease", simulated: true, locks: "limited|shared",
	},
	{
		name: "one more than the limit", file: "lua/holders_obtain.lua",
		old: "holders >= limit then", new: "holders > limit then",
		tests: "HoldersObtain", simulated: true, locks: "limited",
	},
	{
		name: "shared and limited holders mix", file: "lua/holders_obtain.lua",
		old: "if holders > 0 and shared ~= (limit == 0) then", new: "if false then",
		tests: "HoldersObtain", simulated: true, locks: "limited|shared",
	},
	{
		name: "fencing tokens of several holders are not increased", file: "lua/holders_obtain.lua",
		old: "redis.call('incr', KEYS[3])", new: "redis.call('incrby', KEYS[3], 0) + 1",
		tests: "HoldersObtain_fence", simulated: true, locks: "limited",
	},
	{
		name: "a release by token does not compare", file: "lua/release_by_token.lua",
		old: "if string.sub(value, 1, #token) ~= token then", new: "if false then",
		tests: "ReleaseByToken", simulated: true, locks: "fair",
	},
	{
		name: "one more than the limit in a queue", file: "lua/queue.lua",
		old: "holders < tonumber(limit))", new: "holders <= tonumber(limit))",
		tests: "Holders_exclusion", simulated: true, locks: "limited, fair",
	},
	{
		name: "a semaphore joins an exclusive holder", file: "lua/queue.lua",
		old: "return holders > 0 and shared ==", new: "return shared ==",
		tests: "Holders_behindExclusive", simulated: true, locks: "limited, fair",
	},
	{
		name: "a writer is let in beside readers", file: "lua/queue.lua",
		old: "if present and not free and not room(limit, holders, shared, before) then", new: "if present and not free and limit ~= '1' and not room(limit, holders, shared, before) then",
		tests: "QueueRelease_letsIn", simulated: true, locks: "shared, fair",
	},
	{
		name: "the last in the queue comes in first", file: "lua/queue.lua",
		old: "redis.call('zrange', KEYS[3], 0, 0)", new: "redis.call('zrevrange', KEYS[3], 0, 0)",
		tests: "QueueRelease_letsIn", simulated: true, locks: "limited, fair|shared, fair",
	},
	{
		name: "a release lets in one reader", file: "lua/queue.lua",
		old: "			exclusive = limit == '1'\n			if exclusive then", new: "			exclusive = true\n			if limit == '1' then",
		tests: "QueueRelease_letsIn", simulated: true, locks: "shared, fair",
	},
	{
		name: "readers pass a writer that waits", file: "lua/queue_ask.lua",
		old: "room(limit, holders, shared)) and redis.call('exists', KEYS[3]) == 0 then", new: "room(limit, holders, shared)) then",
		tests: "QueueAsk_holders", simulated: true, locks: "shared, fair",
	},
	{
		name: "an ask of a holder does not remove the mark", file: "lua/queue_ask.lua",
		old: "		unmark(value)\n		hold(", new: "		hold(",
		tests: "QueueAsk_holders", simulated: true, locks: "limited, fair, with custom tokens",
	},
	{
		name: "a late ask of a holder shortens the TTL", file: "lua/queue_ask.lua",
		old: "math.max(now() + ttl * 1000, late and ends or 0)", new: "now() + ttl * 1000",
		tests: "QueueAsk_holders", simulated: true, locks: "limited, fair|shared, fair",
	},
	{
		name: "nobody comes in when the first in the queue leaves", file: "lua/queue_leave.lua",
		old: "if passed or holder == '' then", new: "if passed then",
		tests: "QueueLeave_holders", simulated: true, locks: "shared, fair",
	},
}

func TestMutants(t *testing.T) {
	if !*withMutants {
		t.Skip("takes minutes: give -mutants to run it")
	}
	built := buildLibrary(t)
	faults := func(t *testing.T) []string { return []string{"-duration", "9s", "-pictures", t.TempDir()} }
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		output, err := built.test(built.root, ".", mutant{}, "", "-test.short")
		require.NoError(t, err, "%s", output)
		output, err = built.test(built.root, "verify", mutant{}, "Faults/(one_server|quorum_of_five)$/none", faults(t)...)
		require.NoError(t, err, "%s", output)
	})
	for _, mutant := range mutants {
		if mutant.tests == "" {
			continue
		}
		t.Run(mutant.name, func(t *testing.T) {
			t.Parallel()
			if mutant.verify {
				mutant.requireFound(t, built, "verify", mutant.tests, faults(t)...)
			} else {
				mutant.requireFound(t, built, ".", mutant.tests)
			}
		})
	}
}

// TestMutants_simulated has the simulation find the bugs that are about time or order.
func TestMutants_simulated(t *testing.T) {
	if !*withMutants {
		t.Skip("takes many minutes: give -mutants to run it")
	}
	built := buildLibrary(t)
	for _, mutant := range mutants {
		if mutant.simulated {
			t.Run(mutant.name, func(t *testing.T) {
				t.Parallel()
				mutant.requireFound(t, built, "verify", "Simulation", "-test.timeout", "1h", "-simulated", "24h", "-locks", mutant.locks, "-pictures", t.TempDir())
			})
		}
	}
}

// requireFound requires that tests of a module fail with the mutant.
func (m mutant) requireFound(t *testing.T, built library, module, tests string, flags ...string) {
	root := built.root
	if m.isScript() {
		root = t.TempDir()
		copyLibrary(t, root) // whole: the simulation knows scripts by their source
		m.apply(t, root)
	}
	output, err := built.test(root, module, m, tests, flags...)
	assert.Error(t, err, "the mutant survived %s", tests)
	assert.Regexp(t, "--- FAIL: |panic: runtime error", output, "it failed otherwise than by a test")
	t.Logf("%s", regexp.MustCompile(`(?m)^.*(: ".*" at |panic: |times as fast).*$`).FindAllString(output, 3))
}

func (m mutant) isScript() bool { return strings.HasSuffix(m.file, ".lua") }

// A library is a copy of the library that is built once for all mutants. Those of its Go code are
// switched on by their name in the environment; its scripts come from the directory named there.
type library struct {
	root  string
	tests map[string]string // the binaries, by the directories of their modules
}

func buildLibrary(t *testing.T) library {
	root := t.TempDir()
	copyLibrary(t, root)
	mutant{file: "scripts.go", old: `lua.ReadFile("lua/" + name`, new: `os.ReadFile(os.Getenv("REDISLOCK_SCRIPTS") + name`}.apply(t, root)
	mutant{file: "scripts.go", old: "\t\"embed\"\n", new: "\t\"embed\"\n\t\"os\"\n"}.apply(t, root)
	write(t, filepath.Join(root, "mutant.go"), "package redislock\n\nimport \"os\"\n\nvar mutant = os.Getenv(\"REDISLOCK_MUTANT\")\n")
	for _, m := range mutants {
		if !m.isScript() {
			m.addSwitch(t, root)
		}
	}
	return library{root, map[string]string{".": build(t, root, "."), "verify": build(t, root, "verify")}}
}

// test runs tests of a module in a copy of the library, with a mutant.
func (l library) test(root, module string, m mutant, tests string, flags ...string) (output string, err error) {
	command := exec.Command(l.tests[module], append([]string{"-test.timeout", "10m", "-test.failfast", "-test.run", tests}, flags...)...)
	command.Dir = filepath.Join(root, module)
	command.Env = append(os.Environ(), "REDISLOCK_MUTANT="+m.name, "REDISLOCK_SCRIPTS="+filepath.Join(root, "lua")+string(filepath.Separator))
	out, err := command.CombinedOutput()
	return string(out), err
}

// build builds the tests of a module.
func build(t *testing.T, root, module string) (binary string) {
	binary = filepath.Join(root, module, "mutant.test")
	command := exec.Command("go", "test", "-c", "-vet=off", "-o", binary, ".")
	command.Dir = filepath.Join(root, module)
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
	return binary
}

// addSwitch adds a copy of the function that the mutant changes, and has the function call the copy
// if the mutant is switched on.
func (m mutant) addSwitch(t *testing.T, root string) {
	m.requireOnce(t, read(t, filepath.Join("..", m.file)))
	path := filepath.Join(root, m.file)
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	require.NoError(t, err)
	source := read(t, path)
	at := token.Pos(strings.Index(source, m.old)) + file.FileStart
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Pos() <= at && at < f.End() {
			text := func(from, to token.Pos) string { return source[from-file.FileStart : to-file.FileStart] }
			copied := fmt.Sprintf("%s_%d", f.Name.Name, at)
			start := f.Body.Lbrace + 1
			write(t, path, text(file.FileStart, start)+
				fmt.Sprintf("\nif mutant == %q {\n%s\n}\n", m.name, callOf(copied, f, text))+
				text(start, file.FileEnd)+
				text(f.Pos(), f.Name.Pos())+copied+strings.Replace(text(f.Name.End(), f.End()), m.old, m.new, 1)+"\n")
			return
		}
	}
	require.Fail(t, "no function has it", "in %s: %s", m.file, m.old)
}

// callOf is a call of a copy of a function with the same arguments, which returns what that returns.
func callOf(copied string, f *ast.FuncDecl, text func(from, to token.Pos) string) string {
	var args []string
	for _, field := range f.Type.Params.List {
		for _, arg := range field.Names {
			if arg.Name == "_" {
				args = append(args, "*new("+text(field.Type.Pos(), field.Type.End())+")")
			} else {
				args = append(args, arg.Name)
			}
		}
	}
	call := copied + "(" + strings.Join(args, ", ") + ")"
	if f.Recv != nil {
		call = f.Recv.List[0].Names[0].Name + "." + call
	}
	if f.Type.Results != nil {
		return "return " + call
	}
	return call + "\nreturn"
}

func (m mutant) apply(t *testing.T, root string) {
	path := filepath.Join(root, m.file)
	source := read(t, path)
	m.requireOnce(t, source)
	write(t, path, strings.Replace(source, m.old, m.new, 1))
}

func (m mutant) requireOnce(t *testing.T, source string) {
	require.Equal(t, 1, strings.Count(source, m.old), "in %s there should be once:\n%s", m.file, m.old)
}

func read(t *testing.T, path string) string {
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

func write(t *testing.T, path, content string) {
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// copyLibrary copies the library and this module.
func copyLibrary(t *testing.T, to string) {
	require.NoError(t, filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || strings.HasPrefix(path, filepath.Join("..", ".git")) {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, ".."))
		if entry.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, 0o600)
	}))
}
