package main

import (
	"go/ast"
	"go/parser"
	"go/token"
)

var goOperators = map[token.Token]token.Token{
	token.LSS: token.LEQ, token.LEQ: token.LSS,
	token.GTR: token.GEQ, token.GEQ: token.GTR,
	token.EQL: token.NEQ, token.NEQ: token.EQL,
	token.LAND: token.LOR, token.LOR: token.LAND,
}

var goWords = map[string]string{"true": "false", "false": "true", "min": "max", "max": "min"}

type goMutator struct {
	*source
	start    token.Pos
	function string
	spared   map[ast.Node]bool // have no mutant, or one already
	bodies   map[ast.Node]bool // of functions
	parents  []ast.Node        // of the node that is visited, from the outside, and itself
}

func (s *source) mutateGo() error {
	file, err := parser.ParseFile(token.NewFileSet(), s.file, s.code, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	m := &goMutator{source: s, start: file.FileStart, spared: make(map[ast.Node]bool), bodies: make(map[ast.Node]bool)}
	for _, declaration := range file.Decls {
		m.function = functionName(declaration)
		ast.Inspect(declaration, m.visit)
	}
	return nil
}

func functionName(declaration ast.Decl) string {
	function, ok := declaration.(*ast.FuncDecl)
	if !ok {
		return ""
	}
	if function.Recv == nil {
		return function.Name.Name
	}
	receiver := function.Recv.List[0].Type
	if pointer, ok := receiver.(*ast.StarExpr); ok {
		receiver = pointer.X
	}
	return receiver.(*ast.Ident).Name + "." + function.Name.Name
}

func (m *goMutator) visit(node ast.Node) bool {
	if node == nil {
		m.parents = m.parents[:len(m.parents)-1]
		return true
	}
	m.parents = append(m.parents, node)
	switch n := node.(type) {
	case *ast.FuncDecl:
		m.bodies[n.Body] = true
	case *ast.FuncLit:
		m.bodies[n.Body] = true
	case *ast.GenDecl:
		m.changeDurations(n)
	case *ast.IfStmt:
		m.negate(n.Cond)
	case *ast.ForStmt:
		m.negate(n.Cond)
	case *ast.SwitchStmt:
		m.negateCases(n)
	case *ast.BlockStmt:
		m.leaveOut(n.List, m.bodies[n])
	case *ast.CaseClause:
		m.leaveOut(n.Body, false)
	case *ast.CommClause:
		m.leaveOut(n.Body, false)
	case *ast.ReturnStmt:
		m.sparePlaceholders(n)
	case *ast.BinaryExpr:
		if other, ok := goOperators[n.Op]; ok && !m.spared[n] {
			from := m.offset(n.OpPos)
			mutant := m.add(m.function, n.Op.String()+" became "+other.String(), m.textOf(n), from, from+len(n.Op.String()), other.String())
			mutant.unit = m.unitOf(n, asCondition)
		}
	case *ast.BasicLit:
		if (n.Kind == token.INT || n.Kind == token.FLOAT) && !m.spared[n] {
			m.replace(m.function, m.offset(n.Pos()), m.offset(n.End()), otherNumber(n.Value)).unit = m.enclosing()
		}
	case *ast.Ident:
		if other, ok := goWords[n.Name]; ok {
			m.replace(m.function, m.offset(n.Pos()), m.offset(n.End()), other).unit = m.enclosing()
		}
	}
	return true
}

func (m *goMutator) offset(pos token.Pos) int {
	return int(pos - m.start)
}

func (m *goMutator) textOf(node ast.Node) string {
	return m.code[m.offset(node.Pos()):m.offset(node.End())]
}

// change replaces a whole node.
func (m *goMutator) change(node ast.Node, kind unitKind, change, with string) {
	mutant := m.add(m.function, change, m.textOf(node), m.offset(node.Pos()), m.offset(node.End()), with)
	mutant.unit = m.unitOf(node, kind)
}

func (m *goMutator) unitOf(node ast.Node, kind unitKind) *unit {
	return &unit{from: m.offset(node.Pos()), to: m.offset(node.End()), kind: kind}
}

// enclosing returns the smallest unit around the node that is visited; nil if there is none.
func (m *goMutator) enclosing() *unit {
	for i := len(m.parents) - 1; i > 0; i-- {
		switch n := m.parents[i].(type) {
		case *ast.BinaryExpr:
			if _, ok := goOperators[n.Op]; ok {
				return m.unitOf(n, asCondition)
			}
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				return m.definition(n)
			}
			return m.statement(n, m.parents[i-1])
		case ast.Stmt:
			return m.statement(n, m.parents[i-1])
		case ast.Decl:
			return nil
		}
	}
	return nil
}

func (m *goMutator) statement(s ast.Stmt, parent ast.Node) *unit {
	switch s.(type) {
	case *ast.AssignStmt, *ast.ReturnStmt, *ast.ExprStmt, *ast.DeferStmt, *ast.GoStmt, *ast.SendStmt:
	default:
		return nil
	}
	switch p := parent.(type) {
	case *ast.BlockStmt, *ast.CaseClause:
		return m.unitOf(s, asStatement)
	case *ast.CommClause:
		if p.Comm != s {
			return m.unitOf(s, asStatement)
		}
	}
	return nil
}

// definition returns what a variable is set to, if that can as well be evaluated twice.
func (m *goMutator) definition(s *ast.AssignStmt) *unit {
	if len(s.Rhs) != 1 {
		return nil
	}
	twice := true
	ast.Inspect(s.Rhs[0], func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			function, ok := n.Fun.(*ast.Ident)
			twice = twice && ok && (goWords[function.Name] != "" || function.Name == "len")
		case *ast.UnaryExpr:
			twice = twice && n.Op != token.ARROW
		case *ast.FuncLit, *ast.IndexExpr, *ast.SliceExpr:
			twice = false // another index may panic
		}
		return true
	})
	if !twice {
		return nil
	}
	return m.unitOf(s.Rhs[0], asValue)
}

func (m *goMutator) negate(condition ast.Expr) {
	if condition == nil {
		return
	}
	m.change(condition, asCondition, "condition negated", "!("+m.textOf(condition)+")")
	if c, ok := condition.(*ast.BinaryExpr); ok && (c.Op == token.EQL || c.Op == token.NEQ) {
		m.spared[c] = true // the other operator would be the same
	}
}

func (m *goMutator) negateCases(s *ast.SwitchStmt) {
	if s.Tag != nil {
		return
	}
	for _, clause := range s.Body.List {
		for _, condition := range clause.(*ast.CaseClause).List {
			m.negate(condition)
		}
	}
}

// leaveOut leaves out each statement of a list. A return is left out where it is a short cut.
func (m *goMutator) leaveOut(list []ast.Stmt, body bool) {
	for _, statement := range list {
		switch s := statement.(type) {
		case *ast.ReturnStmt:
			if body {
				continue
			}
		case *ast.AssignStmt:
			if s.Tok == token.DEFINE {
				continue
			}
		case *ast.ExprStmt, *ast.DeferStmt, *ast.GoStmt, *ast.IncDecStmt, *ast.SendStmt, *ast.BranchStmt:
		default:
			continue
		}
		m.change(statement, asStatement, "left out", "")
	}
}

// changeDurations doubles constants that are times. It is not their numbers that matter.
func (m *goMutator) changeDurations(declaration *ast.GenDecl) {
	if declaration.Tok != token.CONST {
		return
	}
	for _, spec := range declaration.Specs {
		for _, value := range spec.(*ast.ValueSpec).Values {
			if !isTime(value) {
				continue
			}
			from, to := m.offset(value.Pos()), m.offset(value.End())
			m.add(m.function, "doubled", m.textOf(spec), from, to, "2 * ("+m.textOf(value)+")")
			ast.Inspect(value, func(n ast.Node) bool { m.spared[n] = true; return true })
		}
	}
}

func isTime(value ast.Expr) (is bool) {
	ast.Inspect(value, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if ok {
			name, ok := selector.X.(*ast.Ident)
			is = is || ok && name.Name == "time"
		}
		return true
	})
	return is
}

// sparePlaceholders spares a zero that is returned beside an error, or beside false: nobody
// looks at it.
func (m *goMutator) sparePlaceholders(s *ast.ReturnStmt) {
	if len(s.Results) < 2 {
		return
	}
	if last, ok := s.Results[len(s.Results)-1].(*ast.Ident); ok && (last.Name == "nil" || last.Name == "true") {
		return
	}
	for _, result := range s.Results {
		if zero, ok := result.(*ast.BasicLit); ok && zero.Value == "0" {
			m.spared[zero] = true
		}
	}
}
