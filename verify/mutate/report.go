package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// An outcome is what a mutant came to.
type outcome struct {
	result string // the stage that found it, or one of the constants
	by     string // the test that found it
	took   time.Duration
}

// A journal is a file with the outcomes so far, one a line.
type journal struct {
	file  *os.File // nil: there is none
	known map[string]outcome
}

func openJournal(path string) (*journal, error) {
	j := &journal{known: make(map[string]outcome)}
	if path == "" {
		return j, nil
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	j.file = file
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if f := strings.SplitN(lines.Text(), "\t", 5); len(f) == 5 {
			took, _ := time.ParseDuration(f[3])
			j.known[f[0]+f[4]] = outcome{result: f[1], by: f[2], took: took}
		}
	}
	return j, lines.Err()
}

// digest tells the mutants of one source from those of another.
func digest(m *mutant) string {
	return fmt.Sprintf("%.6x", sha256.Sum256([]byte(m.apply())))
}

func (j *journal) find(m *mutant) (outcome, bool) {
	o, ok := j.known[digest(m)+m.key()]
	return o, ok
}

func (j *journal) add(m *mutant, o outcome) error {
	if j.file == nil {
		return nil
	}
	_, err := fmt.Fprintf(j.file, "%s\t%s\t%s\t%v\t%s\n", digest(m), o.result, o.by, o.took, m.key())
	return err
}

// readNamed reads which survivors nobody can see, and why.
func readNamed(path string) (map[string]string, error) {
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	named := make(map[string]string)
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndex(line, " | ")
		if at < 0 {
			return nil, fmt.Errorf("%s: no reason is given: %s", path, line)
		}
		named[line[:at]] = line[at+len(" | "):]
	}
	return named, nil
}

// table counts the outcomes by file, as Markdown, and lists the survivors. It returns how many
// of them are not named.
func table(mutants []*mutant, outcomes map[*mutant]outcome, named map[string]string, stages []*stage) (string, int) {
	columns := []string{}
	for _, s := range stages {
		columns = append(columns, s.name)
	}
	columns = append(columns, timedOut, "named", survived)
	counts := make(map[string]map[string]int)
	var files []string
	var list strings.Builder
	for _, m := range mutants {
		o, tried := outcomes[m]
		if !tried {
			continue
		}
		if counts[m.source.file] == nil {
			counts[m.source.file] = make(map[string]int)
			files = append(files, m.source.file)
		}
		if reason, ok := named[m.key()]; ok && o.result == survived {
			o.result = "named"
			fmt.Fprintf(&list, "- named: `%v` (%s)\n", m, reason)
		} else if o.result == survived {
			fmt.Fprintf(&list, "- `%v`\n", m)
		}
		for _, file := range []string{m.source.file, "all"} {
			if counts[file] == nil {
				counts[file] = make(map[string]int)
			}
			counts[file][o.result]++
			if o.result != notCompiled {
				counts[file]["mutants"]++
			}
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "| file | mutants | %s |\n| --- |%s\n", strings.Join(columns, " | "), strings.Repeat(" ---: |", len(columns)+1))
	for _, file := range append(files, "all") {
		fmt.Fprintf(&out, "| %s | %d |", file, counts[file]["mutants"])
		for _, column := range columns {
			fmt.Fprintf(&out, " %d |", counts[file][column])
		}
		out.WriteString("\n")
	}
	if list.Len() > 0 {
		fmt.Fprintf(&out, "\nSurvivors:\n\n%s", &list)
	}
	return out.String(), counts["all"][survived]
}
