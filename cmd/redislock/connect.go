//go:build unix

package main

import (
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

const urlEnv = "REDISLOCK_URL"

// connect returns a client of the Redis that the flag names, or else the environment. There is no
// default: a command that should run on one machine at a time must not take a lock on its own machine.
func connect(fromFlag string) (redis.UniversalClient, error) {
	if fromFlag != "" {
		if hasPassword(fromFlag) {
			return nil, fail(exitUsage, "the password in -redis would be in the list of processes, for all to see: put the URL into %s", urlEnv)
		}
		return newClient("-redis", fromFlag)
	}
	fromEnv := os.Getenv(urlEnv)
	if fromEnv == "" {
		return nil, fail(exitUsage, "no Redis: set %s or -redis, such as redis://localhost:6379", urlEnv)
	}
	return newClient(urlEnv, fromEnv)
}

// hasPassword reports whether a URL has a password, or may have: an invalid URL with an @ counts.
func hasPassword(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return strings.Contains(raw, "@")
	}
	if _, has := u.User.Password(); has {
		return true
	}
	for name := range u.Query() {
		if strings.Contains(strings.ToLower(name), "password") {
			return true
		}
	}
	return u.User == nil && strings.Contains(raw, "@")
}

// newClient returns the client that a URL describes, without a connection yet. Its errors do not
// quote a URL with a password.
func newClient(source, raw string) (redis.UniversalClient, error) {
	client, err := parseURL(raw)
	switch {
	case err == nil:
		return client, nil
	case hasPassword(raw):
		return nil, fail(exitUsage, "%s is not a URL of a Redis; its text is not shown, because of the password "+
			"(in which / ? # @ : %% must be written as %%2F %%3F %%23 %%40 %%3A %%25)", source)
	default:
		return nil, fail(exitUsage, "%s: %w", source, err)
	}
}

func parseURL(raw string) (redis.UniversalClient, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	query := u.Query()
	if query.Get("master_name") != "" {
		opt, err := redis.ParseFailoverURL(raw)
		if err != nil {
			return nil, err
		}
		opt.ContextTimeoutEnabled = true
		return redis.NewFailoverClient(opt), nil
	}
	if cluster, _ := strconv.ParseBool(query.Get("cluster")); cluster {
		query.Del("cluster")
		u.RawQuery = query.Encode()
		opt, err := redis.ParseClusterURL(u.String())
		if err != nil {
			return nil, err
		}
		opt.ContextTimeoutEnabled = true
		return redis.NewClusterClient(opt), nil
	}
	opt, err := redis.ParseURL(raw)
	if err != nil {
		return nil, err
	}
	opt.ContextTimeoutEnabled = true
	return redis.NewClient(opt), nil
}

// redisFailure is a failure for an error of Redis, with advice where there is some.
func redisFailure(err error) error {
	if strings.Contains(err.Error(), "MOVED ") {
		return fail(exitRedis, "this Redis is part of a Cluster: add cluster=true to the URL's parameters (%w)", err)
	}
	return &failure{exitRedis, err}
}
