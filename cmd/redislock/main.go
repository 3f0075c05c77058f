//go:build unix

// Command redislock runs a command while it holds a distributed lock on Redis, and inspects and
// releases such locks. Its README says what it promises.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/redis/go-redis/v9/logging"
)

// Exit codes. run exits with the command's own code, or with 128+n if signal n ended it. These are for
// when there is none. They come from sysexits.h, so that few commands use them for anything else.
const (
	exitUsage       = 64
	exitRedis       = 69 // Redis failed, or does not answer
	exitNotHeld     = 74 // the lock was lost; or the token given to release does not hold it
	exitNotObtained = 75
	exitCannotExec  = 126
	exitNoCommand   = 127
	exitSignal      = 128 // plus its number
)

const usage = `redislock runs a command under a lock on Redis, on one machine at a time.

  redislock run [flags] KEY -- COMMAND ARG...  wait for the lock, run, release
  redislock inspect [-json] KEY...             who holds a lock, who waits
  redislock watch KEY                          print a line at each change
  redislock release KEY -token T | -force      release another process's lock

Name the Redis with -redis URL or, if it has a password, in REDISLOCK_URL:
redis://host:6379, rediss://... (TLS), unix:///path/of.sock, for Sentinel
redis://host:26379?master_name=NAME, for Cluster redis://host:6379?cluster=true.

  export REDISLOCK_URL=redis://:secret@redis.internal:6379
  redislock run deploy -- ./deploy.sh production
  redislock run -limit 3 -wait 10m encode -- ffmpeg -i in.mov out.mp4
  redislock run -no-wait -quiet -at-least 55m report -- send-report  # by cron

run exits with the code of the command; 75 if the lock was not obtained, 74 if
it was lost. "redislock run -h" lists the flags.
`

// A failure is an error with the process's exit code.
type failure struct {
	code int
	err  error // nil: there is nothing to say
}

func (f *failure) Error() string {
	if f.err == nil {
		return fmt.Sprintf("exit code %d", f.code)
	}
	return f.err.Error()
}

func fail(code int, format string, args ...any) error {
	return &failure{code, fmt.Errorf(format, args...)}
}

func main() {
	logging.Disable() // go-redis would print errors that are reported anyway
	os.Exit(execute(os.Args[1:]))
}

// execute runs a subcommand and returns the code to exit with.
func execute(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return exitUsage
	}
	subcommands := map[string]func(args []string) error{
		"run":     run,
		"inspect": inspect,
		"watch":   watch,
		"release": release,
	}
	subcommand, ok := subcommands[args[0]]
	switch {
	case ok:
		return report(subcommand(args[1:]))
	case args[0] == "help" || args[0] == "-h" || args[0] == "-help" || args[0] == "--help":
		fmt.Print(usage)
		return 0
	default:
		return report(fail(exitUsage, "no such subcommand: %q; there are run, inspect, watch and release", args[0]))
	}
}

// report prints an error in one line and returns the code to exit with.
func report(err error) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	f := &failure{exitRedis, err}
	errors.As(err, &f)
	if f.err != nil {
		say("%v", f.err)
	}
	return f.code
}

// say prints one line to standard error. Parts of it may come from Redis, where others write.
func say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	text = strings.ReplaceAll(text, "redislock: ", "")
	text = strings.ReplaceAll(text, "\n", "; ")
	fmt.Fprintf(os.Stderr, "redislock: %s\n", printable(text))
}

// flags returns the flag set of a subcommand, with the flag that all of them have.
func flags(subcommand, synopsis string) (set *flag.FlagSet, redisURL *string) {
	set = flag.NewFlagSet(subcommand, flag.ContinueOnError)
	set.SetOutput(io.Discard) // errors are reported once, in one line
	set.Usage = func() {
		fmt.Fprintf(set.Output(), "usage: redislock %s %s\n\n", subcommand, synopsis)
		set.PrintDefaults()
	}
	redisURL = set.String("redis", "", "`URL` of the Redis, without a password (default: $REDISLOCK_URL)")
	return set, redisURL
}

// parse parses flags before, between and after the other arguments, and returns those others. After --
// there are no more flags.
func parse(set *flag.FlagSet, args []string) (others []string, _ error) {
	for {
		if err := set.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				set.SetOutput(os.Stdout)
				set.Usage()
				return nil, err
			}
			return nil, fail(exitUsage, `%w; see "redislock %s -h"`, err, set.Name())
		}
		rest := set.Args()
		if parsed := len(args) - len(rest); len(rest) == 0 || parsed > 0 && args[parsed-1] == "--" {
			return append(others, rest...), nil
		}
		others = append(others, rest[0])
		args = rest[1:]
	}
}

var errEmptyKey = fail(exitUsage, "the key is empty: name the lock")

// parseKey parses the arguments of a subcommand that takes one key.
func parseKey(set *flag.FlagSet, args []string) (key string, _ error) {
	keys, err := parse(set, args)
	switch {
	case err != nil:
		return "", err
	case len(keys) == 0:
		return "", fail(exitUsage, `no key: say which lock; see "redislock %s -h"`, set.Name())
	case len(keys) > 1:
		return "", fail(exitUsage, "one key, not %d: %q", len(keys), keys)
	case keys[0] == "":
		return "", errEmptyKey
	default:
		return keys[0], nil
	}
}
