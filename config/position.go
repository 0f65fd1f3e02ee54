package config

import (
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// position is a line of a file; its zero value is "the defaults".
type position struct {
	file string
	line int
}

func (p position) String() string {
	if p.file == "" {
		return "default configuration"
	}
	return fmt.Sprintf("%s:%d", p.file, p.line)
}

// positions says where each key, such as "sandbox.vcpus", was set last.
type positions map[string]position

// at is the key that is set nearest at or before p, in p's file.
func (ps positions) at(p position) (string, bool) {
	found, line := "", 0
	for key, at := range ps {
		if at.file == p.file && at.line <= p.line && at.line > line {
			found, line = key, at.line
		}
	}
	return found, found != ""
}

// locate finds the lines of all keys of a TOML document. Values are not looked
// at; the error is a *toml.DecodeError for a document that is not TOML.
func locate(file string, data []byte) (positions, error) {
	// The parser's own errors carry no position: the decoder's do.
	var anything map[string]any
	if err := toml.Unmarshal(data, &anything); err != nil {
		return nil, err
	}
	found := positions{}
	var parser unstable.Parser
	parser.Reset(data)
	table := ""
	for parser.NextExpression() {
		node := parser.Expression()
		name, line := keyOf(&parser, node)
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = name + "."
		case unstable.KeyValue:
			key := table + name
			found[key] = position{file, line}
			inline(&parser, file, key, node.Value(), found)
		}
	}
	return found, parser.Error()
}

// inline adds the keys of a value that is an inline table.
func inline(parser *unstable.Parser, file, prefix string, value *unstable.Node, found positions) {
	if value.Kind != unstable.InlineTable {
		return
	}
	for children := value.Children(); children.Next(); {
		name, line := keyOf(parser, children.Node())
		key := prefix + "." + name
		found[key] = position{file, line}
		inline(parser, file, key, children.Node().Value(), found)
	}
}

// keyOf is the dotted key of a table or key-value, and its line.
func keyOf(parser *unstable.Parser, node *unstable.Node) (string, int) {
	var parts []string
	line := 0
	for keys := node.Key(); keys.Next(); {
		if line == 0 {
			line = parser.Shape(keys.Node().Raw).Start.Line
		}
		parts = append(parts, string(keys.Node().Data))
	}
	return strings.Join(parts, "."), line
}
