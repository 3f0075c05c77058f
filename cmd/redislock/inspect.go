//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"
	"unicode/utf8"
)

func inspect(args []string) error {
	set, redisURL := flags("inspect", "[flags] KEY...")
	asJSON := set.Bool("json", false, "print JSON: an array with one object for each key")
	keys, err := parse(set, args)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return fail(exitUsage, `no key: say which locks; see "redislock inspect -h"`)
	}
	if slices.Contains(keys, "") {
		return errEmptyKey
	}
	client, err := connect(*redisURL)
	if err != nil {
		return err
	}
	defer client.Close()
	states := make([]state, len(keys))
	for i, key := range keys {
		if states[i], err = look(context.Background(), client, key); err != nil {
			return redisFailure(err)
		}
	}
	if *asJSON {
		return printJSON(os.Stdout, keys, states)
	}
	return printTable(os.Stdout, keys, states, time.Now())
}

// printTable prints a line for each holder of a lock and each waiter.
func printTable(out io.Writer, keys []string, states []state, now time.Time) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(key, what, length, token, who string) {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", printable(key), what, length, printable(token), printable(who))
	}
	row("KEY", "STATE", "TIME", "TOKEN", "WHO")
	for i, key := range keys {
		s := states[i]
		if len(s.holders)+len(s.waiters) == 0 {
			row(key, "free", "-", "-", "-")
		}
		for _, h := range s.holders {
			token, _ := splitValue(h.value)
			row(key, s.kind(h), left(h.ttl), token, describe(h.value))
		}
		for place, w := range s.waiters {
			token, _ := splitValue(w.value)
			waited := max(now.Sub(w.since), 0).Round(time.Millisecond)
			row(key, fmt.Sprintf("waits, place %d", place+1), "for "+waited.String(), token, describe(w.value))
		}
	}
	return table.Flush()
}

// kind says in what way a holder holds the lock.
func (s state) kind(h entry) string {
	switch {
	case h.released:
		return "released, kept"
	case h.shared:
		return "shared"
	case s.limit > 1:
		return fmt.Sprintf("held, 1 of %d", s.limit)
	default:
		return "held"
	}
}

func left(ttl time.Duration) string {
	if ttl < 0 {
		return "no end"
	}
	return ttl.Round(time.Millisecond).String() + " left"
}

type jsonState struct {
	Key     string      `json:"key"`
	Limit   int         `json:"limit,omitempty"`
	Holders []jsonEntry `json:"holders"`
	Waiters []jsonEntry `json:"waiters"`
}

type jsonEntry struct {
	Token    string     `json:"token"`
	Metadata any        `json:"metadata,omitempty"`    // as it is if it is JSON, else a string
	TTL      *float64   `json:"ttl_seconds,omitempty"` // nil: it has no end
	Shared   bool       `json:"shared,omitempty"`
	Released bool       `json:"released,omitempty"`
	Since    *time.Time `json:"since,omitempty"`
}

func printJSON(out io.Writer, keys []string, states []state) error {
	result := make([]jsonState, len(keys))
	for i, s := range states {
		result[i] = jsonState{Key: keys[i], Limit: s.limit, Holders: []jsonEntry{}, Waiters: []jsonEntry{}}
		for _, h := range s.holders {
			e := newJSONEntry(h.value)
			e.Shared, e.Released = h.shared, h.released
			if h.ttl >= 0 {
				seconds := h.ttl.Seconds()
				e.TTL = &seconds
			}
			result[i].Holders = append(result[i].Holders, e)
		}
		for _, w := range s.waiters {
			e := newJSONEntry(w.value)
			e.Since = &w.since
			result[i].Waiters = append(result[i].Waiters, e)
		}
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(result)
}

func newJSONEntry(value string) jsonEntry {
	token, metadata := splitValue(value)
	e := jsonEntry{Token: token}
	switch {
	case json.Valid([]byte(metadata)) && utf8.ValidString(metadata): // Valid lets other bytes pass
		e.Metadata = json.RawMessage(metadata)
	case metadata != "":
		e.Metadata = metadata
	}
	return e
}
