package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A mutant is one change of a file.
type mutant struct {
	source       *source
	line, column int
	function     string // that it is in; "" outside of any
	change       string // its kind
	text         string // what is changed, on one line
	nth          int    // of those in the function that are alike, from 1
	from, to     int    // offsets of what is replaced
	with         string
	unit         *unit // in which it is combined with others; nil: it is compiled by itself
	number       int   // from 1, of all
}

// String is the mutant's name for people.
func (m *mutant) String() string {
	return fmt.Sprintf("%s:%d:%d %s: %s", m.source.file, m.line, m.column, m.change, m.text)
}

// key is the mutant's name for files: it stays when lines are moved.
func (m *mutant) key() string {
	key := fmt.Sprintf("%s %s: %s: %s", m.source.file, m.function, m.change, m.text)
	if m.nth > 1 {
		key += fmt.Sprintf(" (%d)", m.nth)
	}
	return key
}

// apply returns the whole file with the change.
func (m *mutant) apply() string {
	return m.source.code[:m.from] + m.with + m.source.code[m.to:]
}

// A source is a file, and its mutants.
type source struct {
	file    string // by its path in the library
	code    string
	mutants []*mutant
}

// newSource finds the mutants of a file, in the order of the places that they change.
func newSource(file, code string) (*source, error) {
	s := &source{file: file, code: code}
	if filepath.Ext(file) == ".lua" {
		s.mutateLua()
	} else if err := s.mutateGo(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(s.mutants, func(a, b *mutant) int { return a.from - b.from })
	alike := make(map[string]int)
	for _, m := range s.mutants {
		key := m.key()
		alike[key]++
		m.nth = alike[key]
	}
	return s, nil
}

func (s *source) add(function, change, text string, from, to int, with string) *mutant {
	before := s.code[:from]
	m := &mutant{
		source: s, function: function, change: change, from: from, to: to, with: with,
		text:   strings.Join(strings.Fields(text), " "),
		line:   strings.Count(before, "\n") + 1,
		column: from - strings.LastIndex(before, "\n"),
	}
	s.mutants = append(s.mutants, m)
	return m
}

// replace adds a mutant in which one word has become another. What it is named by is the line.
func (s *source) replace(function string, from, to int, with string) *mutant {
	line := s.code[strings.LastIndex(s.code[:from], "\n")+1:]
	for _, end := range []string{"\n", " //", " --"} {
		line, _, _ = strings.Cut(line, end)
	}
	return s.add(function, s.code[from:to]+" became "+with, line, from, to, with)
}

// otherNumber returns another number than the literal. One more makes a difference of a
// small one only.
func otherNumber(literal string) string {
	n, err := strconv.Atoi(literal)
	switch {
	case err != nil:
		return "(2 * " + literal + ")"
	case n < 10:
		return strconv.Itoa(n + 1)
	default:
		return strconv.Itoa(2 * n)
	}
}
