// Runs calls of the npm package ollama: node official_client.mjs <directory of node_modules> <server>, a JSON list of
// {call, request} on standard input. Prints a JSON list: {parts} of a stream, {answer}, or {error, status}.
import { createRequire } from "node:module";
import { openAsBlob } from "node:fs";
import { text } from "node:stream/consumers";

const [directory, host] = process.argv.slice(2);
const { Ollama } = createRequire(`${directory}/`)("ollama");
const client = new Ollama({ host });

// the package has no call for blobs: what it documents is a POST of one's own
async function upload({ path, digest }) {
  const place = `${host}/api/blobs/${digest}`;
  const before = await fetch(place, { method: "HEAD" });
  const sent = await fetch(place, { method: "POST", body: await openAsBlob(path) });
  const after = await fetch(place, { method: "HEAD" });
  return [before.status, sent.status, after.status];
}

async function run({ call, request }) {
  try {
    const answer = await (call === "upload" ? upload(request) : client[call](request));
    if (!request?.stream) return { answer };
    const parts = [];
    for await (const part of answer) parts.push(part);
    return { parts };
  } catch (error) {
    return { error: error.message, status: error.status_code ?? null };
  }
}

const results = [];
for (const each of JSON.parse(await text(process.stdin))) results.push(await run(each));
console.log(JSON.stringify(results));
