// Differential fuzzing: the language's own implementation (npm @actions/expressions) against `caisson eval --stdin`.
//
//   npm install --no-save @actions/expressions          # anywhere; its node_modules goes into NODE_MODULES
//   NODE_MODULES=/there/node_modules node expressions.mjs target/release/caisson [COUNT] [SEED]
//
// Generates COUNT expressions (100,000 by default) with contexts, from a grammar, from loose tokens and by breaking
// sound ones, and compares kind and value, or the kind of the error. Ends with 1 at any difference, and prints each.
//
// Left out, because that implementation has defects there of its own, seen in its source: more than one escaped quote
// in one string (it unescapes the first only), keys that look like array indices (its objects reorder them), and keys
// and functions that every JavaScript object has (`constructor`). Halves of surrogate pairs are none in Rust's texts.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [caisson, count = "100000", seed = "1"] = process.argv.slice(2);
const root = process.env.NODE_MODULES;
if (!caisson || !root) {
  console.error("usage: NODE_MODULES=DIR node expressions.mjs CAISSON [COUNT] [SEED]");
  process.exit(2);
}
const { Lexer, Parser, Evaluator, data } = await import(pathToFileURL(`${root}/@actions/expressions/dist/index.js`).href);

// A small generator with a seed, so that a difference can be had again.
let state = Number(seed) >>> 0;
const random = () => {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};
const below = n => Math.floor(random() * n);
const pick = list => list[below(list.length)];
const often = p => random() < p;

const TEXTS = ["", " ", "a", "A", "abc", "ABC", "aBc", "0", "1", " 1 ", "-1", "1.5", "0x1F", "0o17", "0b11", "1e3", "NaN", "Infinity", "-Infinity",
  "true", "false", "null", "ı", "I", "i", "İ", "ß", "SS", "Σας", "ΣΑΣ", "ﬀ", "😊", "é", "É", "{0}", "{{", "}}", "{1}", "a{0}b{1}c", "{", "}", "{0", "0}",
  "{0:x}", "{ 0}", "{00}", "\u00a0", "\u0085", "\u2028", "\ufeff", "\t", "\n", "a,b", "-", "+", "+1", "--1", ".5", "5.", ".", "1_0", "1e", "1e+", "0x", "-0x1",
  "it''s", "refs/heads/main", "z".repeat(300)];
const NUMBERS = ["0", "-0", "1", "-1", "2", "3.14", "-2.5", "0x1f", "0xFF", "0o17", "0b101", "1e3", "1E-3", "1e21", "1e-7", "123456789012345678901234567890",
  "0.1", "0.30000000000000004", "1.7976931348623157e308", "5e-324", "1e400", "-1e400", ".5", "5.", "+1", "NaN", "Infinity", "-Infinity", "+Infinity", "0.000015258789063",
  "9007199254740993", "1.0000000000000002", "100", "0.5", "1.0", "2147483648", "0.1e1"];
const NAMES = ["a", "b", "A", "foo", "Bar", "_x", "x-y", "long_name1", "ref", "REF", "é"];
const JSONS = ["[]", "{}", "null", "true", "1", "-0", "\"s\"", "[1,2,3]", "[1,[2,[3]]]", "{\"a\":1}", "{\"a\":{\"b\":[1,2]},\"B\":null}", "[{\"a\":1},{\"a\":2},{\"b\":3}]",
  "{\"a\":1,\"A\":2}", "[\"a\",\"B\",null,true,1.5]", " [ 1 ] ", "[1,]", "{a:1}", "", " ", "nope", "[{\"a\":{\"b\":1}},{\"a\":[{\"b\":2}]}]", "{\"k\":\"\\u00e9\\n\\t\\\"\"}", "1e3", "1e400", "[-1e400, 1e-400]", "[".repeat(200) + "]".repeat(200), "01", "[1]x",
  "{\"x-y\":[{\"foo\":\"1\"},{\"foo\":\"2\"}]}", "\"\\u0000\\u001f\\u007f\""];
const FUNCTIONS = ["contains", "startsWith", "endsWith", "format", "join", "toJSON", "fromJSON", "case", "CONTAINS", "tojson", "fromJson", "nope"];
const TOKENS = ["(", ")", "[", "]", ",", ".", "*", "!", "!=", "==", "<", "<=", ">", ">=", "&&", "||", "=", "&", "|", "true", "false", "null", "NaN", "Infinity", "'x'", "''", "'",
  "1", "-1", "+", "-", "0x", "a", "foo", "github", "format", "contains(", "join(", "case(", ".*", "[*]", "['a']", "[0]", " ", "\n", "\t", "😊", "/", "\\", "\"", "#", "$", "{", "}", "\u00a0", "\u0085", "1.2.3", "..", "é"];

const json = depth => {
  const kind = below(depth > 3 ? 5 : 7);
  if (kind === 0) return null;
  if (kind === 1) return often(0.5);
  if (kind === 2) return pick([0, 1, -1, 2.5, 1e21, 1e-7, 123456789, 0.1, -0.5, 3]);
  if (kind === 5) return Array.from({ length: below(4) }, () => json(depth + 1));
  if (kind === 6) return Object.fromEntries(Array.from({ length: below(4) }, () => [pick(NAMES), json(depth + 1)]));
  return pick(TEXTS);
};
const text = () => (often(0.15) ? `'${pick(JSONS).replaceAll("'", "''")}'` : `'${pick(TEXTS)}'`);
const literal = () => pick([text, text, () => pick(NUMBERS), () => pick(["true", "false", "null"])])();
const path = () => {
  let out = pick(["github", "a", "foo", "GitHub", "matrix", "nope"]);
  for (let i = below(4); i > 0; i--) {
    out += pick([() => "." + pick(NAMES), () => ".*", () => "[*]", () => `['${pick(NAMES)}']`, () => `[${pick(NUMBERS)}]`, () => `[${expression(3)}]`])();
  }
  return out;
};
const call = depth => {
  const name = pick(FUNCTIONS);
  const wanted = { contains: 2, startswith: 2, endswith: 2, tojson: 1, fromjson: 1 }[name.toLowerCase()] ?? 1 + below(4);
  const length = often(0.95) ? wanted : below(5);
  const first = /^fromjson$/i.test(name) && often(0.7) ? () => `'${pick(JSONS).replaceAll("'", "''")}'` : /^format$/i.test(name) && often(0.8) ? () => `'${pick(["{0}", "{0}{1}", "a{0}", "{{{0}}}", "{2}", "x"])}'` : () => expression(depth + 1);
  return `${name}(${Array.from({ length }, (_, i) => (i === 0 ? first() : expression(depth + 1))).join(pick([",", ", "]))})`;
};
const expression = depth => {
  if (depth > 4) return literal();
  switch (below(10)) {
    case 0: case 1: return literal();
    case 2: case 3: return path();
    case 4: case 5: return call(depth);
    case 6: return "!".repeat(1 + below(3)) + expression(depth + 1);
    case 7: return `(${expression(depth + 1)})${often(0.2) ? "." + pick(NAMES) : ""}`;
    default: return `${expression(depth + 1)} ${pick(["==", "!=", "<", "<=", ">", ">=", "&&", "||"])} ${expression(depth + 1)}`;
  }
};
const broken = () => {
  const sound = expression(0);
  const at = below(sound.length + 1);
  return pick([() => sound.slice(0, at), () => sound.slice(0, at) + pick(TOKENS) + sound.slice(at), () => sound.slice(0, at) + sound.slice(at + 1)])();
};
const soup = () => Array.from({ length: 1 + below(8) }, () => pick(TOKENS)).join(pick(["", " "]));
const deep = () => {
  const n = 40 + below(20);
  return pick([() => "(".repeat(n) + "1" + ")".repeat(n), () => "!".repeat(n) + "true", () => "foo" + ".a".repeat(n), () => "foo" + "[0]".repeat(n), () => "1" + " && 1".repeat(n), () => "format(".repeat(n) + "'x'" + ")".repeat(n),
    () => "1 ==".repeat(n) + " 1"])();
};
const generate = () => {
  const kind = random();
  return kind < 0.7 ? expression(0) : kind < 0.85 ? broken() : kind < 0.98 ? soup() : deep();
};
// More than one escaped quote in a string: see above; and half of a surrogate pair, which is no text.
const unfair = expr => /'[^']*''[^']*''/.test(expr) || !expr.isWellFormed();

const plain = value => JSON.parse(JSON.stringify(value, data.replacer));
const KINDS = { [data.Kind.String]: "String", [data.Kind.Array]: "Array", [data.Kind.Dictionary]: "Object", [data.Kind.Boolean]: "Boolean", [data.Kind.Number]: "Number", [data.Kind.Null]: "Null" };
const reference = ({ expr, contexts }) => {
  let tokens;
  try { tokens = new Lexer(expr).lex().tokens; } catch (e) { return { err: "lexing" }; }
  let tree;
  try { tree = new Parser(tokens, Object.keys(contexts), []).parse(); } catch (e) { return { err: "parsing" }; }
  if (tree === undefined) return { err: "parsing" };
  try {
    const value = new Evaluator(tree, JSON.parse(JSON.stringify(contexts), data.reviver)).evaluate();
    return { kind: KINDS[value.kind], value: plain(value) };
  } catch (e) { return { err: "evaluation" }; }
};
const same = (a, b) => {
  if (a === null || b === null || typeof a !== "object" || typeof b !== "object") return a === b || (Number.isNaN(a) && Number.isNaN(b));
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every(key => Object.hasOwn(b, key) && same(a[key], b[key]));
};

const child = spawn(caisson, ["eval", "--stdin"], { stdio: ["pipe", "pipe", "inherit"] });
const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
const tally = {};
let [ran, differences] = [0, 0];
while (ran < Number(count)) {
  const batch = [];
  while (batch.length < 500 && ran + batch.length < Number(count)) {
    const contexts = { github: json(0), a: json(0), foo: json(0), matrix: { foo: json(0), b: json(1) } };
    const expr = generate();
    if (!unfair(expr)) batch.push({ expr, contexts });
  }
  child.stdin.write(batch.map(request => JSON.stringify(request) + "\n").join(""));
  for (const request of batch) {
    const line = (await answers.next()).value;
    const ours = JSON.parse(line);
    const theirs = reference(request);
    const verdict = theirs.err ?? theirs.kind;
    tally[verdict] = (tally[verdict] ?? 0) + 1;
    const agree = theirs.err ? ours.err?.kind === theirs.err : ours.kind === theirs.kind && same(ours.value, theirs.value);
    ran += 1;
    if (!agree && ++differences <= 20) console.log(JSON.stringify({ ...request, theirs, ours }));
  }
}
child.stdin.end();
console.log(`${ran} expressions, seed ${seed}: ${differences} differences; by the reference: ${JSON.stringify(tally)}`);
process.exit(differences === 0 ? 0 : 1);
