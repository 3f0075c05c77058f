//go:build unix

package main

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

const nowhere = "redis://127.0.0.1:1"

func TestUsageFitsAScreen(t *testing.T) {
	t.Parallel()
	lines := output(t, "", "help")
	assert.LessOrEqual(t, len(lines), 24)
	for _, line := range lines {
		assert.LessOrEqual(t, len(line), 80, line)
	}
	for _, subcommand := range []string{"run", "inspect", "watch", "release"} {
		help := output(t, "", subcommand, "-h")
		assert.True(t, strings.HasPrefix(help[0], "usage: redislock "+subcommand), help[0])
	}
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	for text, args := range map[string][]string{
		`no such subcommand: "lock"`:             {"lock", key},
		"no key":                                 {"run", "--", "true"},
		"no command":                             {"run", key},
		"no command: it":                         {"run", key, "--"},
		"one key, not 2":                         {"run", key, "true", "--", "true"},
		"-ttl of 10ms is too short":              {"run", "-ttl", "10ms", key, "--", "true"},
		"-wait of -1s":                           {"run", "-wait", "-1s", key, "--", "true"},
		"-wait and -no-wait contradict":          {"run", "-wait", "1s", "-no-wait", key, "--", "true"},
		"-limit of -1":                           {"run", "-limit", "-1", key, "--", "true"},
		"-limit and -shared contradict":          {"run", "-limit", "2", "-shared", key, "--", "true"},
		"-limit and -shared contradict each":     {"run", "-limit", "1", "-shared", key, "--", "true"},
		"-limit of 3000000000: at most":          {"run", "-limit", "3000000000", key, "--", "true"},
		"-at-least and -shared contradict":       {"run", "-at-least", "1m", "-shared", key, "--", "true"},
		"-wait of 1µs is too short":              {"run", "-wait", "1us", key, "--", "true"},
		"the key is empty":                       {"run", "", "--", "true"},
		"the key is empty: name":                 {"inspect", key, ""},
		"the key is empty: name the":             {"release", "", "-force"},
		"the key is empty: name the lock":        {"watch", ""},
		"no command: it follows":                 {"run", "--", "-k", "--"},
		`one key, not 2: ["-k" "-force"]`:        {"release", "--", "-k", "-force"},
		"-at-least of -1s":                       {"run", "-at-least", "-1s", key, "--", "true"},
		"-at-most of 1ms is too short":           {"run", "-at-most", "1ms", key, "--", "true"},
		"-at-least of 1h0m0s is longer than":     {"run", "-at-least", "1h", "-at-most", "1m", key, "--", "true"},
		`invalid value "soon" for flag -wait`:    {"run", "-wait", "soon", key, "--", "true"},
		"not defined: -later":                    {"run", key, "-later", "--", "true"},
		"no key: say which locks":                {"inspect"},
		"no key: say which lock;":                {"watch"},
		"-interval of 0s":                        {"watch", "-interval", "0", key},
		"whose lock?":                            {"release", key},
		"whose lock? Give":                       {"release", key, "-token", "t", "-force"},
		"the password in -redis would be in the": {"inspect", "-redis", "redis://:secret@127.0.0.1:1", key},
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			p := start(t, nowhere, args...)
			assert.Equal(t, exitUsage, p.code())
			complaint := p.complaint()
			assert.Contains(t, complaint, text)
			assert.NotContains(t, complaint, "secret")
			p.nobody()
		})
	}
	p := start(t, "", "run", key, "--", "true")
	assert.Equal(t, exitUsage, p.code())
	assert.Contains(t, p.complaint(), "no Redis: set REDISLOCK_URL or -redis")
	p = start(t, "")
	assert.Equal(t, exitUsage, p.code())
	assert.Contains(t, p.errors(), "redislock run [flags] KEY")
}

func TestKeysThatBeginWithADash(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	assert.Equal(t, []string{"it runs"}, output(t, urlOf(server), "run", "-limit", "2", "--", "-k", "--", "echo", "it runs"))
	lines := output(t, urlOf(server), "inspect", "--", "-k", "-json")
	require.Len(t, lines, 3)
	assert.Regexp(t, "^-k +free", lines[1])
	assert.Regexp(t, "^-json +free", lines[2])
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for raw, check := range map[string]func(t *testing.T, client redis.UniversalClient){
		"redis://u:p@host:1234/5?read_timeout=7s": func(t *testing.T, client redis.UniversalClient) {
			opt := client.(*redis.Client).Options()
			assert.Equal(t, "host:1234", opt.Addr)
			assert.Equal(t, "p", opt.Password)
			assert.Equal(t, 5, opt.DB)
			assert.True(t, opt.ContextTimeoutEnabled)
			assert.Nil(t, opt.TLSConfig)
		},
		"rediss://host:1234": func(t *testing.T, client redis.UniversalClient) {
			assert.Equal(t, "host", client.(*redis.Client).Options().TLSConfig.ServerName)
		},
		"redis://[::1]:1234": func(t *testing.T, client redis.UniversalClient) {
			assert.Equal(t, "[::1]:1234", client.(*redis.Client).Options().Addr)
		},
		"unix:///path/of.sock?db=2": func(t *testing.T, client redis.UniversalClient) {
			opt := client.(*redis.Client).Options()
			assert.Equal(t, "unix", opt.Network)
			assert.Equal(t, "/path/of.sock", opt.Addr)
			assert.Equal(t, 2, opt.DB)
		},
		"redis://host:26379?master_name=primary&addr=host2:26379&password=p": func(t *testing.T, client redis.UniversalClient) {
			opt := client.(*redis.Client).Options()
			assert.Equal(t, "FailoverClient", opt.Addr)
			assert.Equal(t, "p", opt.Password)
			assert.True(t, opt.ContextTimeoutEnabled)
		},
		"rediss://u:p@host:1?cluster=true&addr=host2:2": func(t *testing.T, client redis.UniversalClient) {
			opt := client.(*redis.ClusterClient).Options()
			assert.Equal(t, []string{"host:1", "host2:2"}, opt.Addrs)
			assert.Equal(t, "p", opt.Password)
			assert.True(t, opt.ContextTimeoutEnabled)
			assert.NotNil(t, opt.TLSConfig)
		},
	} {
		t.Run(raw, func(t *testing.T) {
			client, err := newClient("here", raw)
			require.NoError(t, err)
			defer client.Close()
			check(t, client)
		})
	}
}

func TestUnusableURLs(t *testing.T) {
	t.Parallel()
	for raw, text := range map[string]string{
		"http://host":                         "invalid URL scheme: http",
		"host:6379":                           "invalid URL scheme: host",
		"127.0.0.1:6379":                      "a URL such as redis://host:6379",
		"redis://:6379":                       "has no host",
		"redis:///0":                          "has no host: write one",
		"redis:host:6379":                     "no // before the host",
		"redis:?master_name=m&addr=host:1":    "has no host: write",
		"rediss://:1?cluster=true&addr=h:1":   "the URL has no host",
		"redis://::1":                         "its text is not shown",
		"redis://host#1":                      "the URL has a #",
		"redis://:12#secret@host:1":           "not shown",
		"redis://:secret":                     "its text is not shown",
		"redis://host:secret/0":               "its text is not shown",
		"redis://user:secret:127.0.0.1:1":     "its text is not shown",
		"redis://host/first":                  `invalid database number: "first"`,
		"redis://host?shards=3":               "unexpected option: shards",
		"redis://:se/cret@host":               "not shown",
		"redis://user/secret@host":            "not shown",
		"redis://user:secret@host/db":         "not shown",
		"redis://user:%zzsecret@host":         "not shown",
		"redis://host?master_password=secret": "not shown",
	} {
		t.Run(raw, func(t *testing.T) {
			_, err := newClient("HERE", raw)
			require.ErrorContains(t, err, "HERE")
			assert.ErrorContains(t, err, text)
			assert.NotContains(t, err.Error(), "cret")
			if text == "not shown" {
				_, err := connect(raw)
				assert.ErrorContains(t, err, "list of processes")
				assert.NotContains(t, err.Error(), "cret")
			}
		})
	}
}

func TestPasswordFromTheEnvironment(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	require.NoError(t, server.Client().Do(t.Context(), "acl", "setuser", "worker", "on", ">sec/ret", "~*", "&*", "+@all").Err())
	assert.Equal(t, []string{"it runs"}, output(t, "redis://worker:sec%2Fret@"+server.Addr, "run", key, "--", "echo", "it runs"))

	p := start(t, "redis://worker:wrong@"+server.Addr, "run", key, "--", "echo", "it runs")
	assert.Equal(t, exitRedis, p.code())
	assert.NotContains(t, p.complaint(), "wrong@")
}
