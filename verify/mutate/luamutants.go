package main

import (
	"regexp"
	"strings"
)

var (
	luaHidden    = regexp.MustCompile(`--.*|'[^']*'|(?:KEYS|ARGV)\[\d+\]`)
	luaFunction  = regexp.MustCompile(`^local function (\w+)`)
	luaCondition = regexp.MustCompile(`^\s*(?:if|elseif) (.*) then`)
	luaCompound  = regexp.MustCompile(`\b(?:and|or|not)\b`)
	luaStatement = regexp.MustCompile(`^(\s*)([a-z_][\w.]*(?:\[.*\])? = .*?|[a-z_.]+\(.*\)|return\b.*?)\s*$`)
	luaWord      = regexp.MustCompile(`==|~=|<=|>=|<|>|\b(?:and|or|true|false|min|max)\b`)
	luaNumber    = regexp.MustCompile(`\b\d+(?:e\d+)?\b`)
)

var luaWords = map[string]string{
	"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "~=", "~=": "==", "and": "or", "or": "and",
	"true": "false", "false": "true", "min": "max", "max": "min",
}

// mutateLua goes by lines: the scripts have no statement of several.
func (s *source) mutateLua() {
	at, function := 0, ""
	for line := range strings.Lines(s.code) {
		// What is in strings and comments is not looked at; nor which key or argument it is,
		// since a wrong one is noticed by whoever looks at anything.
		visible := luaHidden.ReplaceAllStringFunc(line, func(hidden string) string {
			filler := "'"
			if strings.HasPrefix(hidden, "--") {
				filler = " "
			}
			return strings.Repeat(filler, len(hidden))
		})
		if f := luaFunction.FindStringSubmatch(visible); f != nil {
			function = f[1]
		} else if strings.HasPrefix(visible, "end") {
			function = ""
		}
		s.mutateLuaLine(function, line, visible, at)
		at += len(line)
	}
}

func (s *source) mutateLuaLine(function, line, visible string, at int) {
	negated := false
	if c := luaCondition.FindStringSubmatchIndex(visible); c != nil {
		condition := line[c[2]:c[3]]
		s.add(function, "condition negated", condition, at+c[2], at+c[3], "not ("+condition+")")
		negated = !luaCompound.MatchString(visible[c[2]:c[3]])
	}
	if c := luaStatement.FindStringSubmatchIndex(visible); c != nil {
		statement, indented := line[c[4]:c[5]], c[3] > 0
		if indented || !strings.HasPrefix(statement, "return") {
			s.add(function, "left out", statement, at+c[4], at+c[5], "")
		}
	}
	for _, w := range luaWord.FindAllStringIndex(visible, -1) {
		word := visible[w[0]:w[1]]
		if negated && (word == "==" || word == "~=") {
			continue // the other operator would be the same
		}
		s.replace(function, at+w[0], at+w[1], luaWords[word])
	}
	for _, n := range luaNumber.FindAllStringIndex(visible, -1) {
		other := otherNumber(visible[n[0]:n[1]])
		if strings.TrimSpace(visible) == "return 1" {
			other = "0"
		}
		s.replace(function, at+n[0], at+n[1], other)
	}
}
