//go:build unix

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A holder is what a process that takes a lock says about itself in the lock's metadata.
type holder struct {
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	User    string `json:"user"`
	Command string `json:"command"`
}

// maxCommand is how many bytes of a command go into the metadata: each refresh sends them.
const maxCommand = 200

func newHolder(command []string) holder {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	name := cmp.Or(os.Getenv("USER"), strconv.Itoa(os.Getuid()))
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	text := strings.ToValidUTF8(strings.Join(command, " "), "?")
	if len(text) > maxCommand {
		text = strings.ToValidUTF8(text[:maxCommand], "") + "…"
	}
	return holder{Host: host, PID: os.Getpid(), User: name, Command: text}
}

func (h holder) metadata() string {
	text, _ := json.Marshal(h) // never fails for such fields
	return string(text)
}

func (h holder) String() string {
	return fmt.Sprintf("%s@%s pid %d: %s", h.User, h.Host, h.PID, h.Command)
}

// tokenLength is the length of the tokens that the library generates.
const tokenLength = 22

// splitValue splits a lock's value into token and metadata. If the holder chose a token of its own, only
// the holder knows where it ends: then the whole value serves as the token.
func splitValue(value string) (token, metadata string) {
	if len(value) < tokenLength || strings.IndexFunc(value[:tokenLength], isNotOfToken) >= 0 {
		return value, ""
	}
	return value[:tokenLength], value[tokenLength:]
}

func isNotOfToken(r rune) bool {
	return r >= utf8.RuneSelf || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '_'
}

// describe says whose a value is: the holder, if this program wrote it, or else whatever metadata there is.
func describe(value string) string {
	token, metadata := splitValue(value)
	var h holder
	if json.Unmarshal([]byte(metadata), &h) == nil && h.Host != "" {
		return h.String()
	}
	if metadata != "" {
		return metadata
	}
	return "token " + token
}

// printable escapes whatever could control a terminal.
func printable(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		if r == utf8.RuneError && size == 1 {
			fmt.Fprintf(&b, `\x%02x`, text[0])
		} else if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
		text = text[size:]
	}
	return b.String()
}
