package verify

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// A row is the outcome of all rounds with one fault.
type row struct {
	deployment, fault, loses string

	took       time.Duration
	rounds     int
	operations int
	turns      int
	refused    int
	failed     int
	violations map[string]int
}

// A report is the rows of all faults.
type report struct {
	mu   sync.Mutex
	rows []*row
}

func (r *report) add(row *row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, row)
}

// count adds a round to the report.
func (r *row) count(round *round, took time.Duration, violations []violation) {
	r.rounds++
	r.took += took
	r.operations += round.history.operations()
	for _, t := range round.history.turns {
		switch {
		case t.Token != "":
			r.turns++
		case t.Refused:
			r.refused++
		default:
			r.failed++
		}
	}
	for _, v := range violations {
		r.violations[v.kind]++
	}
}

// String returns the report as a Markdown table.
func (r *report) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var s strings.Builder
	s.WriteString("| servers | fault | seconds | operations | locks obtained | refused | failed | violations |\n")
	s.WriteString("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |\n")
	total := row{violations: make(map[string]int)}
	for _, row := range r.rows {
		fmt.Fprintf(&s, "| %s | %s | %.0f | %d | %d | %d | %d | %s |\n", row.deployment, row.fault,
			row.took.Seconds(), row.operations, row.turns, row.refused, row.failed, row.verdict())
		total.took += row.took
		total.operations += row.operations
		total.turns += row.turns
		total.refused += row.refused
		total.failed += row.failed
	}
	fmt.Fprintf(&s, "| all | | %.0f | %d | %d | %d | %d | |\n",
		total.took.Seconds(), total.operations, total.turns, total.refused, total.failed)
	return s.String()
}

// verdict says which promises were broken, and why that is allowed.
func (r *row) verdict() string {
	if len(r.violations) == 0 {
		return "0"
	}
	var counts []string
	for _, kind := range violationKinds {
		if n := r.violations[kind]; n > 0 {
			counts = append(counts, fmt.Sprintf("%s: %d", kind, n))
		}
	}
	if r.loses != "" {
		counts = append(counts, "allowed: "+r.loses)
	}
	return strings.Join(counts, "; ")
}
