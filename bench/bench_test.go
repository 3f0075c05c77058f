package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/bench/scenario"
	"github.com/bsm/redislock/internal/redistest"
)

// TestMain also serves as a process that measures.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && !strings.HasPrefix(os.Args[1], "-") {
		scenario.Main(participants...)
		return
	}
	os.Exit(m.Run())
}

// All participants are measured in everything, with the short plan.
func TestBench(t *testing.T) {
	t.Parallel()
	redistest.Start(t).Kill() // skips where there is no redis-server
	server, err := startServer(t.TempDir())
	require.NoError(t, err)
	defer server.stop()
	programs, err := buildPrograms(t.Context(), t.TempDir())
	require.NoError(t, err)
	p := quickPlan()
	found, err := p.run(t.Context(), programs, server.addr)
	require.NoError(t, err)

	figures := map[string][]column{
		scenario.Uncontended: uncontendedColumns,
		scenario.Contended:   contendedColumns,
		scenario.Places:      sharedColumns,
		scenario.Readers:     sharedColumns,
		scenario.Kept:        keptColumns,
	}
	for _, job := range p.jobs() {
		for _, name := range names {
			if !takesPart(name, job) {
				assert.Empty(t, found.figures[name][title(job)], name)
				continue
			}
			for _, column := range figures[job.Kind] {
				s, ok := found.spread(name, title(job), column.figure)
				require.True(t, ok, "%s, %s: %s", name, title(job), column.head)
				switch column.figure {
				case "violations", "lost":
					assert.Zero(t, s.most, "%s, %s: %s", name, title(job), column.head)
				case "fewest", "server CPU", "CPU", "heap/lock":
					assert.GreaterOrEqual(t, s.least, 0., "%s, %s: %s", name, title(job), column.head)
				default:
					assert.Positive(t, s.least, "%s, %s: %s", name, title(job), column.head)
				}
			}
		}
	}
	fewest, _ := found.spread(nameOurs, title(p.contended[0]), "fewest")
	assert.Positive(t, fewest.least, "everybody has a turn")
	goroutines, _ := found.spread(nameOurs, title(p.kept[0]), "goroutines")
	assert.Less(t, goroutines.most, 20.)
	theirs, _ := found.spread(nameUpstream, title(p.kept[0]), "goroutines")
	assert.GreaterOrEqual(t, theirs.least, 100., "one for each lock")
	assert.NotEqual(t, found.versions[nameOurs], found.versions[nameUpstream])
	assert.Regexp(t, `^v\d`, found.versions[nameUpstream])

	report, err := newReport(t.Context(), options{command: "go run ."}, p, found, server)
	require.NoError(t, err)
	for _, name := range names {
		assert.Contains(t, report, "| "+name+" |")
	}
	dir := t.TempDir()
	require.NoError(t, plots(dir, p, found))
	for _, file := range []string{"obtain.svg", "handovers.svg", "waits.svg", "goroutines.svg", "bytes.svg"} {
		image, err := os.ReadFile(filepath.Join(dir, file))
		require.NoError(t, err)
		assert.Contains(t, string(image), "</svg>")
		assert.Contains(t, report, "("+file+")")
	}
}

func TestAhead(t *testing.T) {
	job := quickPlan().uncontended[0]
	found := findings{make(map[string]map[string][]map[string]float64), make(map[string]string)}
	add := func(name string, rates ...float64) {
		for _, rate := range rates {
			found.add(name, title(job), scenario.Result{Figures: map[string]float64{"ops/s": rate}})
		}
	}
	add(nameBare, 1000)
	add(nameOurs, 100, 300, 200)
	add(nameRedsync, 200.4, 150, 250)
	columns := uncontendedColumns[:1]
	assert.Equal(t, "No other library is ahead of redislock here.", ahead(found, job, columns), "as printed it is the same")
	assert.Equal(t, "**200** (100–300)", columns[0].cell(found, nameOurs, job))
	assert.Equal(t, "1000", columns[0].cell(found, nameBare, job), "a yardstick")
	add(nameRueidis, 201)
	assert.Equal(t, "Ahead of redislock: rueidislock in obtain + release /s (201 against 200).", ahead(found, job, columns))
}

// Each picture is well-formed and shows what it is about.
func TestPictures(t *testing.T) {
	t.Parallel()
	redistest.Start(t).Kill() // skips where there is no redis-server
	dir := t.TempDir()
	require.NoError(t, pictures(t.Context(), dir))
	for name, least := range map[string]map[string]int{
		"queue.svg": {colorHeld: 2 * turnWorkers, colorWaits: turnWorkers, colorLong: 2},
		"lease.svg": {colorHeld: 1, colorSilent: 2, "#2e8b57": 6, "#999999": 1},
	} {
		file, err := os.Open(filepath.Join(dir, name))
		require.NoError(t, err)
		fills := make(map[string]int)
		for decoder := xml.NewDecoder(file); ; {
			token, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, name)
			if element, ok := token.(xml.StartElement); ok {
				for _, attribute := range element.Attr {
					if attribute.Name.Local == "fill" {
						fills[attribute.Value]++
					}
				}
			}
		}
		require.NoError(t, file.Close())
		for color, n := range least {
			assert.GreaterOrEqual(t, fills[color], n, "%s: %s", name, color)
		}
	}
}
