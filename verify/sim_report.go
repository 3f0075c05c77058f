package verify

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A simReport counts what happened in simulations.
type simReport struct {
	simulated time.Duration
	faults    map[string]int
	rows      map[simRowKey]*simRow
}

type simRowKey struct {
	servers int
	style   string
}

type simRow struct {
	obtained, refused, failed, lost int
}

func newSimReport() *simReport {
	return &simReport{faults: make(map[string]int), rows: make(map[simRowKey]*simRow)}
}

func (r *simReport) count(s *simulation) { r.simulated += s.now() }

// countCall adds a call that is over.
func (r *simReport) countCall(c *simCall) {
	key := simRowKey{len(c.s().servers), c.style.name}
	if r.rows[key] == nil {
		r.rows[key] = &simRow{}
	}
	row := r.rows[key]
	switch {
	case c.turn.Done != 0:
		row.lost++
		row.obtained++
	case c.turn.Token != "":
		row.obtained++
	case c.turn.Refused:
		row.refused++
	default:
		row.failed++
	}
}

// String returns the report as Markdown tables.
func (r *simReport) String() string {
	var s strings.Builder
	s.WriteString("| servers | locks | obtained | of these, lost | refused | failed |\n| --- | --- | ---: | ---: | ---: | ---: |\n")
	var keys []simRowKey
	for key := range r.rows {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b simRowKey) int {
		return strings.Compare(fmt.Sprint(a.servers, a.style), fmt.Sprint(b.servers, b.style))
	})
	var all simRow
	for _, key := range keys {
		row, servers := r.rows[key], "one"
		if key.servers > 1 {
			servers = fmt.Sprintf("quorum of %d", key.servers)
		}
		fmt.Fprintf(&s, "| %s | %s | %d | %d | %d | %d |\n", servers, key.style, row.obtained, row.lost, row.refused, row.failed)
		all.obtained += row.obtained
		all.lost += row.lost
		all.refused += row.refused
		all.failed += row.failed
	}
	fmt.Fprintf(&s, "| all | | %d | %d | %d | %d |\n\n| fault | times |\n| --- | ---: |\n", all.obtained, all.lost, all.refused, all.failed)
	for _, fault := range simFaults {
		fmt.Fprintf(&s, "| %s | %d |\n", fault.name, r.faults[fault.name])
	}
	return s.String()
}
