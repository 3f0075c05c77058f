package verify

import (
	"flag"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

var pictures = flag.String("pictures", os.TempDir(), "the directory for pictures of histories with violations")

// drawModel draws a history as porcupine saw it, and returns the file's name.
func drawModel(info porcupine.LinearizationInfo) (string, error) {
	file := pictureName("html")
	return file, porcupine.VisualizePath(lockModel, info, file)
}

func pictureName(kind string) string {
	return filepath.Join(*pictures, fmt.Sprintf("redislock-%d.%s", time.Now().UnixNano(), kind))
}

// draw draws who held a lock around a violation, and returns the file's name: a line for
// each worker, grey while it waits, coloured while it holds.
func draw(turns []turn, v violation) (string, error) {
	const width, line, margin = 960, 28, 90
	from, to := v.at-lockTTL, v.at+lockTTL
	x := func(at time.Duration) float64 {
		at = min(max(at, from), to)
		return margin + (width-margin-10)*float64(at-from)/float64(to-from)
	}
	workers := 0
	for _, t := range turns {
		workers = max(workers, t.Worker+1)
	}
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n",
		width, (workers+2)*line)
	s.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	fmt.Fprintf(&s, `<text x="4" y="18">%s of %s: %s</text>`+"\n", v.kind, html.EscapeString(v.key), html.EscapeString(v.what))
	for i := range workers {
		fmt.Fprintf(&s, `<text x="4" y="%d">worker %d</text>`+"\n", (i+2)*line-8, i)
	}
	for _, t := range turns {
		if t.ended() < from || t.Obtain.From > to {
			continue
		}
		y := (t.Worker+1)*line + 6
		bar := func(a, b time.Duration, height int, colour string) {
			fmt.Fprintf(&s, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"><title>%s</title></rect>`+"\n",
				x(a), y+(line-12-height)/2, max(x(b)-x(a), 1), height, colour, html.EscapeString(t.String()))
		}
		bar(t.Obtain.From, t.Obtain.To, 3, "#bbb")
		bar(t.Obtain.To, t.ended(), line-12, [...]string{"#4878a8", "#e49444", "#6a9f58", "#d1605e"}[t.Worker%4])
	}
	fmt.Fprintf(&s, `<line x1="%[1]f" x2="%[1]f" y1="%d" y2="%d" stroke="red"/>`+"\n", x(v.at), line, (workers+1)*line)
	fmt.Fprintf(&s, `<text x="%d" y="%d">%v before</text><text x="%d" y="%d" text-anchor="end">%v after</text>`+"\n</svg>\n",
		margin, (workers+2)*line-8, lockTTL, width-10, (workers+2)*line-8, lockTTL)
	file := pictureName("svg")
	return file, os.WriteFile(file, []byte(s.String()), 0o600)
}
