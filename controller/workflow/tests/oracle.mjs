// Agreement with the language's own parser (npm @actions/workflow-parser): which files each accepts.
//
//   npm install --no-save @actions/workflow-parser esbuild
//   npx esbuild node_modules/@actions/workflow-parser/dist/index.js --bundle --platform=node --format=esm \\
//     --banner:js="import{createRequire}from'module';const require=createRequire(import.meta.url);" --outfile=parser.mjs
//   PARSER=parser.mjs node oracle.mjs CAISSON FILE...
//
// FILE is a workflow, or an official case, whose second part is taken. A file counts as refused by caisson when `check`
// finds an error of kind language in it. Files that call others are left out: that parser reads no second file here.
import { spawnSync } from "node:child_process";
import { mkdtempSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { pathToFileURL } from "node:url";

const [caisson, ...files] = process.argv.slice(2);
const { parseWorkflow, convertWorkflowTemplate, NoOperationTraceWriter } = await import(pathToFileURL(process.env.PARSER).href);
const folder = mkdtempSync(join(tmpdir(), "oracle-"));
mkdirSync(join(folder, ".github/workflows"), { recursive: true });
let [agree, total] = [0, 0];
for (const file of files) {
  const parts = readFileSync(file, "utf8").split(/^---[ ]*\n/m);
  const text = parts.length > 2 ? parts[1] : parts[0];
  if (/uses:\s*\S+\.ya?ml/.test(text)) continue;
  const name = ".github/workflows/" + basename(file);
  const parsed = parseWorkflow({ name, content: text }, new NoOperationTraceWriter());
  const errors = parsed.context.errors.getErrors().map(error => error.message);
  if (parsed.value && errors.length === 0) {
    const template = await convertWorkflowTemplate(parsed.context, parsed.value);
    errors.push(...(template.errors ?? []).map(error => error.Message));
  }
  writeFileSync(join(folder, name), text);
  const said = JSON.parse(spawnSync(caisson, ["check", folder, "-W", basename(file), "--json"], { encoding: "utf8" }).stdout);
  rmSync(join(folder, name));
  const ours = said.findings.filter(finding => finding.severity === "error" && finding.kind === "language");
  total += 1;
  if (errors.length > 0 === ours.length > 0) agree += 1;
  else console.log(basename(file), { theirs: errors, ours: ours.map(finding => `${finding.line}: ${finding.message}`) });
}
rmSync(folder, { recursive: true });
console.log(`${agree} of ${total} files agree`);
