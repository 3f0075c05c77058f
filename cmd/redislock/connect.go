//go:build unix

package main

import (
	"errors"
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

// errNotURL is for a text that is no URL. It may be one whose password is not where it belongs.
var errNotURL = errors.New("this is not a URL such as redis://host:6379; its text is not shown, because it may contain a password")

// newClient returns the client that a URL describes, without a connection yet. Its errors do not
// quote a URL that has a password, or may have.
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
		return nil, errNotURL // err quotes the text
	}
	if err := checkHost(u); err != nil {
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

// checkHost finds out that a URL does not name its host clearly. For go-redis, none means this machine.
func checkHost(u *url.URL) error {
	switch {
	case u.Scheme != "redis" && u.Scheme != "rediss":
		return nil
	case u.Opaque != "":
		return errors.New("there is no // before the host: write a URL such as redis://host:6379")
	case u.Hostname() == "":
		return errors.New("the URL has no host: write one such as redis://host:6379")
	case strings.Contains(u.Hostname(), ":") && !strings.HasPrefix(u.Host, "["):
		return errNotURL // not IPv6 either: the port, or a password, may be in the wrong place
	case u.Fragment != "":
		return errors.New("the URL has a # where none belongs: in a password, write it as %23")
	default:
		return nil
	}
}

// redisFailure is a failure for an error of Redis, with advice where there is some.
func redisFailure(err error) error {
	if strings.Contains(err.Error(), "MOVED ") {
		return fail(exitRedis, "this Redis is part of a Cluster: add cluster=true to the URL's parameters (%w)", err)
	}
	return &failure{exitRedis, err}
}
