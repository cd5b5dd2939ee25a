// What gjson finds in four documents, for paths that people write (fixed.txt) and paths made at random: one case a line.
// Writes ../cases.jsonl's lines to standard output and docs.json, which is ../documents.json: go run . > ../cases.jsonl
// A number as argument asks for more cases than are kept. Cases are left out whose answer in gjson is no JSON.
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"strings"

	"github.com/tidwall/gjson"
)

type Case struct {
	Doc    int      `json:"doc"`
	Path   string   `json:"path"`
	Exists bool     `json:"exists"`
	Text   string   `json:"text"`
	Array  []string `json:"array"`
}

var docs = []string{
	`{"auth":{"identity":{"sub":"alice","groups":["dev","ops"],"age":37,"ratio":0.5,"admin":true,"none":null,"fav.movie":"Deer Hunter","realm_access":{"roles":["admin","user"]},"empty":"","list":[],"obj":{}}},"request":{"method":"POST","path":"/v1/models/llama:generate","headers":{"authorization":"Bearer abc.def.ghi","x-team":"red blue green","x-b64":"aGVsbG8=","content-type":"application/json"},"size":1234,"time":{"seconds":1700000000,"nanos":5}},"friends":[{"first":"Dale","last":"Murphy","age":44,"nets":["ig","fb","tw"],"vip":true},{"first":"Roger","last":"Craig","age":68,"nets":["fb","tw"],"vip":false},{"first":"Jane","last":"Murphy","age":47,"nets":["ig","tw"]}],"vegetables":["carrot","pea",1,2.5,false,null],"deep":[[1,[2,3]],[[4]],[]],"cols":{"id":["a","b","c"],"val":[1,2],"x":9},"parts":[{"a":1,"b":2},{"b":3},{"c":4}],"text":"{\"id\":7,\"l\":[1,2]}","num":-12,"flt":2.5}`,
	`[1,"two",{"three":3,"list":[{"k":"v1"},{"k":"v2","n":1},{"n":2}]},[4,5,[6]],true,null,"7"]`,
	`"just text"`,
	`{"":{"":1},"a*b":1,"a?":2,"#":3,"0":"zero","@this":5,"é":"ü","axb":4,"x":{"y":{"z":1}},"y":{"z":2},"a|b":6,"nested":{"a":[{"b":1},{"b":2},{"c":3}],"n":[{"b":9}]}}`,
}

var r = rand.New(rand.NewSource(4))

func pick(s ...string) string { return s[r.Intn(len(s))] }

func key() string {
	return pick("auth", "identity", "sub", "groups", "friends", "first", "last", "age", "nets", "vip", "vegetables", "deep", "cols", "parts", "request", "headers", "x-team", "num", "flt", "time", "seconds", "three", "list", "k", "n", "x", "y", "z", "a", "b", "nested", "missing", "none", "empty", "obj", "realm_access", "roles",
		`fav\.movie`, "*", "a*", "f?rst", "*e*", "x?y", "a?", `a\*b`, "0", "1", "2", "3", "10", "#", "-1", "é", "")
}
func mod() string {
	return pick("@this", "@reverse", "@keys", "@values", "@flatten", `@flatten:{"deep":true}`, "@join", "@valid", "@ugly", "@group")
}
func last() string {
	return pick("@tostr", "@fromstr", "@base64:encode", `@extract:{"sep":"e","pos":0}`, `@replace:{"old":"e","new":"3"}`)
}
func value() string {
	return pick(`"Murphy"`, "Murphy", "45", "47", "true", "false", "null", "~true", "~false", "~null", "~*", `"ig"`, "ig", "*a*", `"M*y"`, "?g", "1", "2", `"v1"`, "")
}
func op() string { return pick("==", "=", "!=", "<", "<=", ">", ">=", "%", "!%") }
func query(d int) string {
	p := pick("", "first", "last", "age", "nets", "vip", "k", "n", "a", "b", "missing", "nets.#", "nets.0")
	if d > 0 && r.Intn(4) == 0 {
		p = pick("nets.", "list.", "") + query(d-1)
	}
	s := "#(" + p
	if r.Intn(5) > 0 && !strings.HasPrefix(p, "#(") {
		s += op() + value()
	}
	s += ")"
	if r.Intn(2) == 0 {
		s += "#"
	}
	return s
}
func many(d int) string {
	open, shut := "[", "]"
	named := r.Intn(2) == 0
	if named {
		open, shut = "{", "}"
	}
	var parts []string
	for i := 0; i <= r.Intn(3); i++ {
		s := path(d - 1)
		if named {
			s = fmt.Sprintf(pick(`"n%d":`, `m%d:`), i) + s
		}
		parts = append(parts, s)
	}
	return open + strings.Join(parts, ",") + shut
}
func path(d int) string {
	var s string
	for i, n := 0, 1+r.Intn(4); i < n; i++ {
		if i > 0 {
			s += pick(".", ".", ".", "|")
		}
		switch k := r.Intn(12); {
		case k < 6:
			s += key()
		case k == 6:
			s += "#"
		case k < 9:
			s += query(1)
		case k == 9 || d <= 0:
			s += mod()
		case k == 10:
			s += many(d)
		default:
			s += key()
		}
	}
	if r.Intn(8) == 0 {
		s += "|" + last()
	}
	return s
}

func wrap(s string) string { b, _ := json.Marshal(s); return string(b) }

func main() {
	gjson.AddModifier("case", func(j, a string) string { return strings.ToUpper(j) })
	gjson.AddModifier("base64", func(j, a string) string {
		return wrap(base64.StdEncoding.EncodeToString([]byte(gjson.Parse(j).String())))
	})
	gjson.AddModifier("extract", func(j, a string) string {
		sep, pos := " ", 0
		if s := gjson.Get(a, "sep"); s.Exists() {
			sep = s.String()
		}
		pos = int(gjson.Get(a, "pos").Int())
		p := strings.Split(gjson.Parse(j).String(), sep)
		if pos >= len(p) {
			return "n"
		}
		return wrap(p[pos])
	})
	gjson.AddModifier("replace", func(j, a string) string {
		return wrap(strings.ReplaceAll(gjson.Parse(j).String(), gjson.Get(a, "old").String(), gjson.Get(a, "new").String()))
	})
	fixed, _ := os.ReadFile("fixed.txt")
	seen := map[string]bool{}
	var cases []Case
	add := func(doc int, p string) {
		k := fmt.Sprint(doc, p)
		if seen[k] {
			return
		}
		seen[k] = true
		res := gjson.Get(docs[doc], p)
		if len(res.Raw) > 300 || !gjson.Valid(res.Raw) && res.Raw != "" {
			return
		}
		c := Case{doc, p, res.Exists(), res.String(), []string{}}
		for _, a := range res.Array() {
			c.Array = append(c.Array, a.String())
		}
		cases = append(cases, c)
	}
	for _, l := range strings.Split(string(fixed), "\n") {
		if l == "" {
			continue
		}
		for d := range docs {
			add(d, l)
		}
	}
	misses, n := 0, 1600
	if len(os.Args) > 1 {
		fmt.Sscan(os.Args[1], &n)
	}
	for len(cases) < n {
		d := []int{0, 0, 0, 1, 3}[r.Intn(5)]
		p := path(2)
		if !gjson.Get(docs[d], p).Exists() {
			misses++
			if misses%8 != 0 {
				continue
			}
		}
		add(d, p)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for _, c := range cases {
		out.Encode(c)
	}
	f, _ := os.Create("docs.json")
	json.NewEncoder(f).Encode(docs)
}
