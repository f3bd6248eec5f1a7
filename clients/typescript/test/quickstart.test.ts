import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { python, TestServer } from "./server.js";

const EPOCHS = "25";
const DEMO = `
import sys
sys.path.insert(0, "examples")
import optserve
from demo import iris
with optserve.connect(sys.argv[1]) as client:
    for run in iris.train_all(client, int(sys.argv[2])):
        print(run.optimizer, run.losses[-1], 100 * run.accuracies[-1])
`;

function rows(table: string): [string, number, number][] {
  return table
    .trim()
    .split("\n")
    .map((line) => line.split(/\s+/))
    .map(([name = "", loss = "", accuracy = ""]) => [name, Number(loss), Number.parseFloat(accuracy)]);
}

test("the quickstart's numbers are those of the Python demo", async () => {
  await using server = await TestServer.start();
  const program = join(import.meta.dirname, "../examples/quickstart.js");
  const { stdout } = await promisify(execFile)(process.execPath, [program, server.address, EPOCHS]);
  const found = rows(stdout).slice(1);
  const expected = rows(python("-c", DEMO, server.address, EPOCHS));
  assert.equal(found.length, 5);
  for (const [i, [name, loss, accuracy]] of expected.entries()) {
    // RMSProp's first steps amplify rounding, and the order of NumPy's sums depends on the processor.
    const [lossBound, accuracyBound] = name === "RMSProp" ? [0.1, 50] : [1e-6, 0.06];
    assert.equal(found[i]?.[0], name);
    assert.ok(Math.abs((found[i]?.[1] ?? NaN) - loss) <= lossBound, `${found[i]} instead of ${expected[i]}`);
    assert.ok(Math.abs((found[i]?.[2] ?? NaN) - accuracy) <= accuracyBound, `${found[i]} instead of ${expected[i]}`);
  }
});
