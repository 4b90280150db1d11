// Reads the stores of `write.py` with zarrita: npm install zarrita; node read.mjs DIR
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import * as zarr from "zarrita";
import { FileSystemStore } from "@zarrita/storage";

const folder = resolve(process.argv[2]);
const expected = JSON.parse(readFileSync(join(folder, "expected.json"), "utf8"));

async function rows(store, tap) {
  const root = zarr.root(new FileSystemStore(join(folder, store)));
  const array = await zarr.open(root.resolve(tap), { kind: "array" });
  return zarr.get(array);
}

let bad = 0;
for (const [tap, { rows: wanted, values }] of Object.entries(expected)) {
  try {
    const found = await rows("X.zarr", tap);
    const width = found.shape.slice(1).reduce((a, b) => a * b, 1);
    const same = values.flat(Infinity).every((value, i) => Number(found.data[wanted[Math.floor(i / width)] * width + (i % width)]) === value);
    bad += same ? 0 : 1;
    console.log(`zarrita, node ${process.version}: ${tap}: ${same ? "right" : "OTHER NUMBERS"}`);
  } catch (error) {
    bad += 1;
    console.log(`zarrita, node ${process.version}: ${tap}: ${error.constructor.name}: ${error.message.split("\n")[0]}`);
  }
}
for (const store of ["empty.zarr", "missing.zarr"]) {
  try {
    const found = await rows(store, "tokens/02");
    await rows(store, "pooled");
    console.log(`zarrita: ${store}: no error (${found.shape})`);
  } catch (error) {
    console.log(`zarrita: ${store}: ${error.constructor.name}: ${error.message.split("\n")[0]}`);
  }
}
process.exit(bad ? 1 : 0);
